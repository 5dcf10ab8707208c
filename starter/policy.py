"""The commands `policy ...`: look at policy lines, check files before they are used, and see what a change changes."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from keyturn.console import counted
from keyturn.errors import InvalidRequest
from keyturn.inventory.read import read
from keyturn.inventory.rows import InventoryKey
from keyturn.inventory.source import Inventory
from keyturn.policy.catalogue import Catalogue, load_catalogue
from keyturn.policy.changes import Change, changes_for, smallest_examples
from keyturn.policy.errors import CatalogueInvalid, UnknownPolicyLine
from keyturn.policy.files import PolicyFile, read_files
from keyturn.policy.line import PolicyLine, digest_of_line
from keyturn.policy.review import review
from keyturn.policy.wording import condition_in_words, demands_in_words, key_in_words
from keyturn.starter.policy_options import policy_options

EXIT_FAULTS = 1
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")


@click.group()
def policy() -> None:
    """List policy lines, check files, and compare two versions."""


@policy.command("list")
@policy_options
@_as_json
def list_lines(policy_dir: Path | None, shipped: bool, as_json: bool) -> None:
    """List the policy lines of this machine, and their digest.

    Starters, desks and workers must print the same digest: a rotation whose lines differ is parked, and the error names
    them.

    \b
    Example:
      keyturn policy list
    """
    catalogue = load_catalogue(policy_dir, shipped=shipped)
    if as_json:
        lines = [line.model_dump(mode="json") for line in catalogue]
        click.echo(json.dumps({"digest": catalogue.version, "lines": lines}))
        return
    for line in catalogue:
        click.echo(f"{line.ref!s:28} {condition_in_words(line):28} {demands_in_words(line)}")
        click.echo(f"  {', '.join(line.applies_to)}: {line.wording}")
    click.echo(f"digest {catalogue.version}")


@policy.command()
@click.argument("line_id")
@policy_options
@_as_json
def show(line_id: str, policy_dir: Path | None, shipped: bool, as_json: bool) -> None:
    """Show one policy line: its wording, its rule, and its source.

    \b
    Example:
      keyturn policy show P-7
    """
    line = load_catalogue(policy_dir, shipped=shipped).current(line_id)
    if as_json:
        click.echo(json.dumps(line.model_dump(mode="json") | {"digest": digest_of_line(line)}))
        return
    for name, value in (
        ("line", str(line.ref)),
        ("wording", line.wording),
        ("covers", ", ".join(line.applies_to)),
        ("condition", condition_in_words(line)),
        ("demands", demands_in_words(line)),
        ("evidence", f"counts for {line.evidence_days} days"),
        ("decided by", line.decide.replace("_", " ")),
        ("source", f"{line.source.benchmark} {line.source.release}, {line.source.id}"),
        ("digest", digest_of_line(line)),
    ):
        click.echo(f"{name:11}{value}")


@policy.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@_as_json
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Check policy files, or folders of them, before they are used.

    Faults are printed with file and line number; exit status 1 if there are any. Remarks are for the author: lines that
    can never hold, that another line makes redundant, that contradict each other, or that leave a gap between dates.

    \b
    Example:
      keyturn policy check policies/*.toml
    """
    lines, faults = read_files(_files(files))
    remarks = [] if faults else review(lines)
    if as_json:
        output = {
            "lines": len(lines),
            "faults": [fault._asdict() for fault in faults],
            "remarks": [remark._asdict() for remark in remarks],
        }
        click.echo(json.dumps(output))
    else:
        for fault in faults:
            click.echo(f"fault: {fault}", err=True)
        for remark in remarks:
            click.echo(str(remark))
        if not faults:
            click.echo(f"{counted(len(lines), 'policy line')} can be used; {counted(len(remarks), 'remark')}")
    if faults:
        raise click.exceptions.Exit(EXIT_FAULTS)


@policy.command()
@click.argument("old", type=click.Path(path_type=Path, exists=True))
@click.argument("new", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--inventory",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Inventory whose changed keys are counted as well.",
)
@click.option(
    "--access-keys",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="AWS: output of `aws iam list-access-keys` for the users of the report.",
)
@click.option("--policy", "names", multiple=True, help="Judge these lines together; repeatable.  [default: each alone]")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(0, 10_000), help="Maximum number of keys to name."
)
@_as_json
def diff(
    old: Path,
    new: Path,
    inventory: Path | None,
    access_keys: Path | None,
    names: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """Show for which keys a policy change alters the decision, the window, the date or the approvers.

    Each change comes with the simplest key that shows it; with an inventory, also with the number and names of its keys
    that change.

    \b
    Example:
      keyturn policy diff policies/ policies-next/ --inventory report.csv
    """
    before, after = _catalogue(old), _catalogue(new)
    output = []
    for label, was, now in _pairs(before, after, names):
        examples = smallest_examples(was, now)
        counted = _on_inventory(inventory, access_keys, was, now, limit) if inventory is not None else None
        if examples or counted is None or counted["changed"]:
            output.append({"lines": label, "examples": [_as_object(one) for one in examples], "inventory": counted})
    if as_json:
        click.echo(json.dumps({"changes": output}))
        return
    for change in output:
        _print_change(change)
    if not output:
        click.echo("nothing changes for any key")


@policy.command()
def schema() -> None:
    """Print the JSON schema of a policy file, for editors and other programs."""
    click.echo(json.dumps(PolicyFile.model_json_schema(), indent=2))


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.toml")) if path.is_dir() else [path]
        if not inside:
            raise InvalidRequest(f"{path} holds no policy files (*.toml)")
        found += inside
    return found


def _catalogue(path: Path) -> Catalogue:
    lines, faults = read_files(_files([path]))
    if faults:
        raise CatalogueInvalid("; ".join(map(str, faults[:10])))
    return Catalogue(lines)


def _pairs(
    before: Catalogue, after: Catalogue, names: Sequence[str]
) -> Iterable[tuple[str, list[PolicyLine], list[PolicyLine]]]:
    """The lines to compare: those that were named, together; else each that differs, alone."""
    was, now = ({line.id: line for line in catalogue} for catalogue in (before, after))
    if names:
        for name in names:
            if name not in was and name not in now:
                raise UnknownPolicyLine(f"{name!r} is a policy line of neither the old nor the new files")
        yield (
            " + ".join(names),
            [was[name] for name in names if name in was],
            [now[name] for name in names if name in now],
        )
        return
    for name in sorted(was.keys() | now.keys()):
        if name not in was or name not in now or digest_of_line(was[name]) != digest_of_line(now[name]):
            state = "added" if name not in was else "removed" if name not in now else "changed"
            yield f"{name} {state}", [was[name]] if name in was else [], [now[name]] if name in now else []


def _on_inventory(
    file: Path, access_keys: Path | None, was: Sequence[PolicyLine], now: Sequence[PolicyLine], limit: int
) -> dict[str, Any]:
    keys = changed = 0
    aspects: dict[str, int] = {}
    named: list[dict[str, str]] = []
    at = datetime.now(UTC)
    for row in read(Inventory(file=file, access_keys=access_keys)):
        if not isinstance(row, InventoryKey):
            continue
        keys += 1
        found = changes_for(was, now, row.facts, at)
        changed += bool(found)
        for change in found:
            aspects[change.aspect] = aspects.get(change.aspect, 0) + 1
        if found and len(named) < limit:
            output = {f"{one.aspect}": f"{one.before} -> {one.after}" for one in found}
            named.append({"account_id": row.account_id, "key_id": row.facts.key_id} | output)
    return {"keys": keys, "changed": changed, "by_aspect": aspects, "named": named}


def _as_object(change: Change) -> dict[str, Any]:
    output = {"aspect": change.aspect, "before": change.before, "after": change.after}
    return output | {"example": key_in_words(change.facts)}


def _print_change(change: dict[str, Any]) -> None:
    click.echo(change["lines"])
    for one in change["examples"]:
        click.echo(f"  {one['aspect']}: {one['before']} -> {one['after']}, for example: {one['example']}")
    if not change["examples"]:
        click.echo("  the same for every key")
    counted = change["inventory"]
    if counted is not None:
        by = ", ".join(f"{count:,} {aspect}" for aspect, count in counted["by_aspect"].items()) or "none"
        click.echo(f"  inventory: {counted['changed']:,} of {counted['keys']:,} keys change ({by})")
        for key in counted["named"]:
            output = ", ".join(f"{name} {value}" for name, value in key.items() if name not in {"account_id", "key_id"})
            click.echo(f"    {key['key_id']} of {key['account_id']}: {output}")
