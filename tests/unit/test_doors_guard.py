"""difs.doors: who is let in, where it listens, and what the document says."""

import base64
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from difs import config
from difs.clock import ManualClock
from difs.doors import address, app, guard, openapi, tokens
from difs.doors.answers import Refused
from difs.errors import ConfigError

TOKEN = "a-secret"
OPEN = guard.Rules()
GUARDED = guard.Rules(
    needs_token=True,
    tokens=(guard.Token("ann", guard.digest(TOKEN)), guard.Token("bob", guard.digest("other"), True)),
)
HERE = "127.0.0.1:7860"


def judged(
    rules: guard.Rules = OPEN, method: str = "POST", path: str = "/v1/models", **headers: str
) -> str:
    """Return the caller's name, or the code of the refusal."""
    named = {"host": HERE} | {name.replace("_", "-"): value for name, value in headers.items()}
    found = guard.judge(rules, method, path, named)
    return found.code if isinstance(found, Refused) else found.name


# ---- hosts and origins ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", [HERE, "localhost", "LOCALHOST:1", "[::1]:7860", "localhost."])
def test_loopback_names_are_ours(host: str) -> None:
    assert judged(host=host) == ""


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "192.168.1.9", "localhost:x",
     "[::1", "[::1]x", "::1", "localhost@evil", "0.0.0.0:7860"],
)  # fmt: skip
def test_any_other_name_may_be_a_rebound_one(host: str) -> None:
    assert judged(host=host) == "foreign_host"


def test_beyond_loopback_addresses_are_taken_and_names_still_not() -> None:
    wide = guard.Rules(any_address=True, hosts=guard.LOOPBACK_HOSTS | {"pictures.lan"})
    assert judged(wide, host="192.168.1.9:7860") == ""
    assert judged(wide, host="pictures.lan") == ""
    assert judged(wide, host="evil.example") == "foreign_host"


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_any_host_is_judged(host: str) -> None:
    assert judged(host=host) in ("", "foreign_host")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_other_pages_are_kept_out(headers: dict[str, Any]) -> None:
    assert judged(**headers) == "foreign_origin"
    assert judged(method="GET", **headers) == "foreign_origin"


def test_our_own_page_and_a_link_to_it_are_let_in() -> None:
    assert judged(origin=f"http://{HERE}", sec_fetch_site="same-origin") == ""
    assert judged(method="GET", path="/", sec_fetch_site="cross-site", sec_fetch_mode="navigate") == ""


# ---- tokens ---------------------------------------------------------------------------------------


def basic(token: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", basic(TOKEN)])
def test_a_token_names_its_owner(header: str) -> None:
    assert judged(GUARDED, authorization=header) == "ann"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer wrong", "Basic !!!", basic(""), basic("wrong"), f"Digest {TOKEN}", TOKEN],
)
def test_without_a_good_token_nobody_gets_in(header: str) -> None:
    assert judged(GUARDED, authorization=header) == "unauthorised"


@pytest.mark.parametrize(
    ("rules", "header", "is_admin"),
    [(OPEN, "", True), (GUARDED, f"Bearer {TOKEN}", False), (GUARDED, "Bearer other", True)],
)
def test_programs_of_this_machine_and_marked_tokens_administer(
    rules: guard.Rules, header: str, is_admin: bool
) -> None:
    found = guard.judge(rules, "POST", "/", {"host": HERE, "authorization": header})
    assert isinstance(found, guard.Caller)
    assert found.is_admin == is_admin


def test_whoever_reaches_an_open_path_of_a_guarded_door_administers_nothing() -> None:
    found = guard.judge(GUARDED, "GET", "/healthz", {"host": HERE})
    assert found == guard.Caller()


def test_accounts_of_deleted_tokens_are_revoked_and_no_others() -> None:
    bob = guard.digest("other")
    assert guard.revoked(GUARDED, {bob, "gone"}) == {"gone"}
    assert guard.revoked(OPEN, {""}) == frozenset(), "nobody needs a token there"


def test_a_new_token_of_the_same_name_is_another_caller(tmp_path: Path) -> None:
    accounts = []
    for _ in range(2):
        token = tokens.add(tmp_path / "tokens", "ann")
        rules = guard.Rules(needs_token=True, tokens=tokens.load(tmp_path / "tokens"))
        found = guard.judge(rules, "GET", "/", {"host": HERE, "authorization": f"Bearer {token}"})
        assert isinstance(found, guard.Caller)
        accounts.append(found.account)
        (tmp_path / "tokens").unlink()
    assert accounts[0] != accounts[1]


def test_only_the_sign_of_life_needs_no_token() -> None:
    assert judged(GUARDED, path="/healthz") == ""
    assert judged(GUARDED, path="/healthz/") == "unauthorised"


def test_a_token_is_made_kept_as_a_digest_and_revoked(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token, other = tokens.add(path, "ann"), tokens.add(path, "bob")
    text = path.read_text()
    assert token not in text
    assert path.stat().st_mode & 0o777 == 0o600
    file = tokens.TokenFile(path)
    assert guard.owner(file.entries(), token) == guard.Token("ann", guard.digest(token))
    path.write_text("".join(line for line in text.splitlines(keepends=True) if line.startswith("bob")))
    assert guard.owner(file.entries(), token) is None
    assert guard.owner(file.entries(), other) == guard.Token("bob", guard.digest(other))
    path.unlink()
    assert file.entries() == ()


def test_the_mark_of_an_administrator_is_kept(tmp_path: Path) -> None:
    tokens.add(tmp_path / "tokens", "ann", is_admin=True)
    tokens.add(tmp_path / "tokens", "bob")
    assert [token.is_admin for token in tokens.load(tmp_path / "tokens")] == [True, False]


def test_a_name_has_one_token(tmp_path: Path) -> None:
    tokens.add(tmp_path / "tokens", "ann")
    with pytest.raises(ConfigError, match="already"):
        tokens.add(tmp_path / "tokens", "ann")
    with pytest.raises(ConfigError, match="small letters"):
        tokens.add(tmp_path / "tokens", "Ann B")


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    tokens.add(path, "ann")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="0600"):
        tokens.load(path)
    os.symlink(path, tmp_path / "link")
    with pytest.raises(ConfigError, match="cannot read"):
        tokens.load(tmp_path / "link")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.touch(0o600)
    for text in (
        "ann plain-token\n",
        f"ann {guard.digest('x')} root\n",
        f"ann {guard.digest('x')}admin\n",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match="http-token"):
            tokens.load(path)


# ---- where it listens -----------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:7860", "[::1]:7860", "127.9.9.9:1"])
def test_loopback_needs_no_token(listen: str) -> None:
    address.check(config.Http(listen))


@pytest.mark.parametrize("listen", ["0.0.0.0:7860", "[::]:7860", "192.168.1.9:7860"])
def test_beyond_loopback_needs_the_flag_and_a_token(listen: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    tokens.add(path, "ann")
    empty = tmp_path / "empty"
    empty.touch(0o600)
    for refused in (
        config.Http(listen),
        config.Http(listen, remote=True),
        config.Http(listen, token_file=str(path)),
        config.Http(listen, remote=True, token_file=str(empty)),
    ):
        with pytest.raises(ConfigError):
            address.check(refused)
    address.check(config.Http(listen, remote=True, token_file=str(path)))


@pytest.mark.parametrize("listen", ["7860", "evil.example:80", "127.0.0.1", "127.0.0.1:99999", ":80", ""])
def test_a_bad_address_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"http\.listen"):
        address.check(config.Http(listen))


def test_a_taken_port_is_told_at_once() -> None:
    with address.listen(config.Http("127.0.0.1:0")) as sock:
        port = sock.getsockname()[1]
        assert address.url(sock) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ConfigError, match="cannot listen"):
            address.listen(config.Http(f"127.0.0.1:{port}"))


# ---- the document ---------------------------------------------------------------------------------


def served() -> set[tuple[str, str]]:
    """Return every path and method that the application serves."""

    def connect() -> None:
        raise AssertionError("nobody asks for anything")

    routes = app.make(connect, ManualClock()).routes  # type: ignore[arg-type]
    found = set()
    for route in routes:
        assert isinstance(route, Route)
        path = re.sub(r":\w+}", "}", route.path)
        found |= {(path, method.lower()) for method in route.methods or () if method != "HEAD"}
    return found


def test_the_openapi_document_has_every_route_and_no_other() -> None:
    said = {(path, method) for path, tree in openapi.document()["paths"].items() for method in tree}
    assert said == served()


def test_every_reference_of_the_document_is_in_it() -> None:
    document = openapi.document()
    refs = set(re.findall(r"'#/components/schemas/([^']+)'", str(document)))
    assert refs
    assert refs <= document["components"]["schemas"].keys()
    assert {"ImagesAsk", "Txt2ImgAsk", "GenerateAsk"} <= refs


def test_every_path_stands_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "HTTP.md").read_text("utf-8")
    missing = [path for path, _ in served() if path not in text and path.rpartition("/")[2] not in text]
    assert not missing


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    for name in app.PAGE_FILES.values():
        text = (app.PAGE / name).read_text("utf-8")
        assert not re.findall(
            r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+", text.replace("http://www.w3.org/2000/svg", "")
        )
        assert "innerHTML" not in text
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=\"", text), (
            "the policy forbids inline code"
        )
