"""`difs register`, `difs unregister` and `difs derive`: what changes the user's part of the repository.

They work on files, with or without a service; one that runs notices by itself.
"""

from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer

from difs.cli.app import ConfigOption, JsonOption, RunDirOption, app, roots
from difs.errors import RepositoryError
from difs.exits import readable

KIND_HELP = "base, turbo, lcm or lightning, where its name and metadata mislead."
PREDICTION_HELP = "epsilon or v_prediction, where nothing in the file tells."


@app.command()
@readable
def register(
    path: Annotated[
        Path,
        typer.Argument(
            help="A .safetensors checkpoint or LoRA, a diffusers folder, or the whole models folder"
            " of A1111 or ComfyUI."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Its name here; default: the file's.")
    ] = None,
    onto: Annotated[
        str | None, typer.Option("--onto", help="A LoRA: make a variant of this one with it, too.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights instead of linking.")] = False,
    licence: Annotated[str | None, typer.Option("--licence", help="Its licence, as shown.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help=KIND_HELP)] = None,
    prediction: Annotated[str | None, typer.Option("--prediction", help=PREDICTION_HELP)] = None,
    config_file: ConfigOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make your own checkpoints and LoRAs known, offline; their files stay where they are."""
    from difs.registration import derive, report
    from difs.registration.orders import Order, Outcome
    from difs.registration.register import register as put

    here = roots(config_file, run_dir)
    base = here.known.variant(onto) if onto is not None else None
    wishes = _checked(kind=kind, prediction=prediction)
    with report.progress(show=not as_json) as watch:
        order = Order(
            here.shipped, here.user, here.known, name, copy=copy, licence=licence, watch=watch, **wishes
        )

        def tell(outcome: Outcome) -> None:
            if not as_json:
                report.show_outcome(outcome)

        outcomes = put(path, order, tell)
    made = None
    if base is not None:
        adapter = roots(config_file, run_dir).known.adapters.get(outcomes[0].name)
        if adapter is None or len(outcomes) > 1:
            raise RepositoryError(f"--onto is for one LoRA; {path} is {outcomes[0].what}")
        made = derive.make(
            derive.fused(base, adapter), base, here.user, f"{base.name}-{adapter.name}"[:64]
        )
    if as_json:
        facts = {"registered": [msgspec.to_builtins(outcome) for outcome in outcomes], "variant": made}
        print(msgspec.json.encode(facts).decode())
    else:
        report.show_sum(outcomes, made)
    if all(outcome.problem is not None for outcome in outcomes):
        raise RepositoryError(f"nothing in {path} could be registered")


def _checked(**wishes: str | None) -> Any:
    """Return options that must be one of a few words; raises RepositoryError for another."""
    from difs.manifests import Kind, Prediction

    for option, allowed in (("kind", get_args(Kind)), ("prediction", get_args(Prediction))):
        if wishes[option] is not None and wishes[option] not in allowed:
            words = f"{wishes[option]!r} is not one of {', '.join(allowed)}"
            raise typer.BadParameter(words, param_hint=f"--{option}")
    return wishes


@app.command()
@readable
def unregister(
    name: Annotated[str, typer.Argument(help="A variant or adapter; see `difs variants`.")],
    config_file: ConfigOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Forget a variant or adapter that was registered; linked files stay where they are."""
    from difs.registration.register import unregister as take_out

    here = roots(config_file, run_dir)
    print(f"{take_out(name, here.known, here.user)} {name} is no longer registered")


@app.command()
@readable
def derive(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="See `difs variants`.")],
    make: Annotated[
        list[str] | None, typer.Option("--make", help="A proposal to make; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The name of the one made.")] = None,
    config_file: ConfigOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Propose other ways to compute a variant's weights, and make them variants of their own."""
    from difs.registration import derive as derived
    from difs.registration import report

    here = roots(config_file, run_dir)
    base = here.known.variant(variant)
    if name is not None and len(make or ()) != 1:
        raise typer.BadParameter("a name is for one proposal made", param_hint="--name")
    chosen = [derived.choose(base, here.known, key) for key in make or ()]
    for proposal in chosen:
        wanted = name or proposal.name
        if wanted in here.known.variants or wanted in here.known.adapters:
            raise RepositoryError(f"the name {wanted!r} is taken; choose one with --name")
    made = [derived.make(proposal, base, here.user, name) for proposal in chosen]
    if as_json:
        found = [] if make else [report.facts_of(p) for p in derived.proposals(base, here.known)]
        print(msgspec.json.encode({"proposals": found, "made": made}).decode())
    elif make:
        for entry in made:
            print(f"{entry} is made; it shares the weights of {base.name}")
    else:
        report.show_proposals(base, derived.proposals(base, here.known))
