"""The model card of a bundle: what its maker says of the model, and what was measured, on one page.

Source: Mitchell et al., "Model Cards for Model Reporting", 2019 (arXiv 1810.03993), of which this has the parts an app's maker asks for.
"""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from lepton_runtime.errors import InputError
from lepton_runtime.manifest import ArtifactRecord, Manifest

CARD_FILE = "model-card.md"
TEMPLATE = """\
# The model card of a bundle: fill it in, and give it to `lepton-edge export --card`.
# What was measured, and the license of `--license`, are added.

# What does the model do, and what is it for?
task = ""

# What was it trained on, and what was it tested on?
data = ""

# When is it wrong, and what is it not for?
limits = ""

# Whom to ask; may be left out.
contact = ""
"""


@dataclass(frozen=True)
class ModelCard:
    """What the maker of a model says of it.

    Attributes:
        task: What it does, and what it is for.
        data: What it was trained and tested on.
        limits: When it is wrong, and what it is not for.
        contact: Whom to ask; empty if nobody is named.
    """

    task: str
    data: str
    limits: str
    contact: str = ""

    @classmethod
    def read(cls, path: Path) -> "ModelCard":
        """The card in a TOML file, see :data:`TEMPLATE`.

        Raises:
            InputError: It cannot be read, or something in it is missing, or unknown.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(
                f"--card takes a TOML file, {str(path)!r} cannot be read as one: {error}; `lepton-edge card` prints one"
            ) from error
        known = [entry.name for entry in fields(cls)]
        unknown = sorted(set(values) - set(known))
        empty = [name for name in known[:3] if not (isinstance(values.get(name), str) and values[name].strip())]
        if unknown or empty or not isinstance(values.get("contact", ""), str):
            what = f"{unknown[0]!r} is none of them" if unknown else f"{(empty or ['contact'])[0]!r} says nothing"
            raise InputError(f"a model card has texts for {', '.join(known)}, in {str(path)!r} {what}; `lepton-edge card` prints one")
        return cls(**values)


def card_text(card: ModelCard, manifest: Manifest) -> str:
    """The page, in Markdown: what was said, and the figures of the manifest, with how many samples they are of."""
    source = manifest.source
    digest = f", SHA-256 `{source['sha256']}`" if source["sha256"] else ""
    said = {
        "Task": card.task,
        "Data": card.data,
        "Limits": card.limits,
        "License": manifest.license or "None is named.",
        "Contact": card.contact,
    }
    parts = [f"# {source['file'] or 'A model given in memory'}", f"Exported by lepton-edge{digest}."]
    parts += [f"## {title}\n\n{text.strip()}" for title, text in said.items() if text.strip()]
    parts += [f"## Measured\n\n{_table(manifest)}"]
    parts += [f"- {note}" for note in manifest.notes]
    return "\n\n".join(parts) + "\n"


def _table(manifest: Manifest) -> str:
    evaluation = manifest.evaluation
    measured = f"accuracy on {evaluation.samples:,} samples" if evaluation else "accuracy"
    rows = [["file", "precision", "kB", measured, "largest difference from Keras", "same best class"], ["---"] * 6]
    if evaluation:
        rows.append(["Keras", "", "", f"{100 * evaluation.accuracy:.2f} %", "", ""])
    rows += [_row(record) for record in manifest.artifacts]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(record: ArtifactRecord) -> list[str]:
    parity = record.parity
    accuracy = "not measured" if record.accuracy is None else f"{100 * record.accuracy:.2f} %"
    same = "" if parity.top1_agreement is None else f"{100 * parity.top1_agreement:.1f} % of {parity.samples:,}"
    return [record.file, str(record.precision), f"{record.size_bytes / 1000:,.0f}", accuracy, f"{parity.max_abs:.1e}", same]
