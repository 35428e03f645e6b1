"""HTTP doors on top of the protocol: OpenAI Images, A1111's API, DIFS's own jobs, and a page.

They translate and decide nothing. `openai`, `a1111`, `native`, `jobs`, `guard`, `answers` and `decode`
are pure; `service`, `gate` and the `*_routes` perform; `__main__` is the process. See docs/HTTP.md.
"""
