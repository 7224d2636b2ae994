r"""Saved models for other people: the card that says what one is, and the Hugging Face Hub.

A saved model of any kind is a folder with a description, tensors in safetensors and a manifest (:mod:`girsanov.saved`);
its card, ``README.md``, is for people and no part of the manifest, so that they may change it. Names of arguments are
those of ``huggingface_hub``'s mixin; the package itself is imported when something is sent or fetched.
"""

__all__ = ["Card", "Download", "Pretrained", "saved_folder"]

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TypedDict

from girsanov import __version__
from girsanov.files import CARD, MANIFEST
from girsanov.inputs import require_names
from girsanov.saved import FILES
from girsanov.types import Estimate, InputError

LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as the Hub names them
TAGS = ("girsanov", "likelihood", "pytorch")
NO_LICENCE = "unknown"
HERE = "."  # the folder in which a card lies


class Download(TypedDict, total=False):
    """What is to be fetched from the Hub, and how: keywords of every ``from_pretrained``; a folder needs none.

    Attributes:
        revision: branch, tag or commit.
        token: of an account, for what is private; ``True`` for the one that is logged in.
        cache_dir: where downloads are kept.
        force_download: whether to fetch again what is kept.
        local_files_only: whether to take only what is kept.
    """

    revision: str | None
    token: str | bool | None
    cache_dir: str | Path | None
    force_download: bool
    local_files_only: bool


@dataclass(frozen=True)
class Card:
    """What a saved model says of itself to people who meet it.

    Attributes:
        title: its heading.
        lead: what it is, in a sentence or two.
        usage: Python that loads and uses it; ``{source}`` stands for the folder or the id.
        facts: names and values: the data by name and shape, splits, network, training. Never a row.
        likelihoods: calls and which likelihood each returns.
        evaluations: what was evaluated, and the number with its errors and its kind.
        notes: what a reader must know before using it.
        tags: for the Hub, beside those of all models.
    """

    title: str
    lead: str
    usage: str
    facts: Mapping[str, str] = field(default_factory=dict)
    likelihoods: Mapping[str, str] = field(default_factory=dict)
    evaluations: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    tags: Sequence[str] = ()

    def text(self, source: str = HERE, license: str | None = None) -> str:
        """The card in Markdown, with the Hub's fields at its head.

        Args:
            source: what ``from_pretrained`` is given: an id, or the folder that the card lies in.
            license: as the Hub names licences.

        Raises:
            InputError: for a licence that is no such name.

        Example:
            >>> print(Card("A line", "A straight one.", "print({source!r})").text(license="cc0-1.0")[:44])
            ---
            library_name: girsanov
            license: cc0-1.0
        """
        parts = [
            self._head(license),
            f"# {_plain(self.title)}",
            _plain(self.lead),
            _table("Which likelihood", ("call", "returns, in nats per row"), self.likelihoods, code=True),
            _table("Evaluations", ("of", "value"), self.evaluations),
            _table("What it is made of", ("", ""), self.facts),
            "\n".join(f"- {_plain(note)}" for note in self.notes),
            "## Use\n\n" + f"```python\n{self.usage.format(source=source).strip()}\n```",
            _plain(
                f"Saved by girsanov {__version__} as {', '.join(FILES)} and {MANIFEST}, whose checksums are compared "
                "when the model is loaded. Nothing here is a pickle."
            ),
        ]
        return "\n\n".join(filter(None, parts)) + "\n"

    def _head(self, license: str | None) -> str:
        name = NO_LICENCE if license is None else license
        if not isinstance(name, str) or not LICENCE.fullmatch(name):
            raise InputError(f"license must be a name such as apache-2.0, cc-by-4.0 or other; got {license!r}")
        tags = "\n".join(f"- {tag}" for tag in (*TAGS, *self.tags))
        return f"---\nlibrary_name: girsanov\nlicense: {name}\ntags:\n{tags}\n---"


class Pretrained(ABC):
    """What every saved model can: write itself with its card, and send itself to the Hub."""

    @abstractmethod
    def _write(self, folder: Path, card: str) -> None:
        """Write everything into a folder."""

    @abstractmethod
    def _card(self) -> Card:
        """What the model says of itself."""

    def _public(self) -> "Pretrained":
        """The model without what concerns nobody else, such as paths of a user's own."""
        return self

    def card(
        self, *, source: str = HERE, license: str | None = None, evaluations: Mapping[str, Estimate] | None = None
    ) -> str:
        """The model card, in Markdown: which likelihood, the data by name and shape, splits, evaluations, use.

        Args:
            source: what the card's example loads: a Hub id, or the folder that the card lies in.
            license: as the Hub names licences, such as ``apache-2.0``; unknown by default.
            evaluations: by what they are of, such as ``{"test rows": model.elbo(test)}``.
        """
        found = self._card()
        told = dict(found.evaluations) | {name: repr(value) for name, value in (evaluations or {}).items()}
        return replace(found, evaluations=told).text(source, license)

    def save_pretrained(
        self, folder: str | Path, *, license: str | None = None, evaluations: Mapping[str, Estimate] | None = None
    ) -> None:
        """Write ``config.json``, ``model.safetensors``, a manifest of checksums and a model card; never a pickle.

        Args:
            folder: where.
            license: see :meth:`card`.
            evaluations: see :meth:`card`.
        """
        self._write(Path(folder), self.card(license=license, evaluations=evaluations))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push model using girsanov",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        license: str | None = None,
        evaluations: Mapping[str, Estimate] | None = None,
    ) -> str:
        """Write the model and its card into a repository of the Hugging Face Hub, which is made if there is none.

        Args:
            repo_id: ``user/name``.
            commit_message: of the commit.
            private: whether a repository that is made is private; default what the account does.
            token: of the account; default the one that is logged in.
            branch: to write to.
            create_pr: whether to make a pull request instead.
            license: see :meth:`card`.
            evaluations: see :meth:`card`.

        Returns:
            The address of the commit.

        Raises:
            InputError: if ``huggingface_hub`` is missing, or the Hub refuses.
        """
        card = self.card(source=repo_id, license=license, evaluations=evaluations)
        api = _hub(repo_id).HfApi(token=token)
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "model"
            self._public()._write(folder, card)
            try:
                known = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
                options = {"commit_message": commit_message, "revision": branch, "create_pr": create_pr}
                return str(api.upload_folder(repo_id=known, folder_path=folder, **options))
            except Exception as error:
                raise InputError(f"{repo_id}: the Hub refuses ({_reason(error)}); check name and token") from error


def saved_folder(folder_or_hub_id: str | Path, kind: str, more: Sequence[str] = (), **download: object) -> Path:
    """A folder, which goes before everything else; else the download of the repository of that id.

    Args:
        folder_or_hub_id: where.
        kind: what is looked for, such as ``density model``.
        more: files beside those of every saved model.
        **download: see :class:`Download`.

    Raises:
        InputError: one sentence, for what is neither, for a repository without a saved model, and for other keywords.
    """
    require_names(download, list(Download.__annotations__), "from_pretrained")
    folder, name = Path(folder_or_hub_id), str(folder_or_hub_id)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{folder}: is a file; give the folder of a saved {kind}")
    near = folder.parent.is_dir() and str(folder.parent) != "."
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or near:
        runs = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())[:8] if near else []
        beside = f" ({folder.parent} holds {', '.join(runs)})" if runs else ""
        raise InputError(f"{folder}: there is no such folder{beside}; give that of a saved {kind} or a Hugging Face id")
    return _fetched(name, kind, more, download)


def _fetched(name: str, kind: str, more: Sequence[str], download: Mapping[str, object]) -> Path:
    """The kept download of a repository: the files of a saved model, and no others."""
    hub, wanted = _hub(name), [*FILES, MANIFEST, CARD, *more]
    try:
        place = Path(hub.snapshot_download(name, allow_patterns=wanted, **download))
    except Exception as error:
        reason = f"there is no such folder, and no such model can be downloaded ({_reason(error)})"
        raise InputError(f"{name}: {reason}; check the name") from error
    missing = [file for file in (*FILES, MANIFEST) if not (place / file).is_file()]
    if missing:
        raise InputError(
            f"{name}: this repository has no {' and no '.join(missing)}, so that it is no saved {kind}; weights in "
            "other files, pickles above all, are never loaded"
        )
    return place


def _hub(name: str) -> ModuleType:
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise InputError(f'{name}: the Hugging Face Hub needs its package: pip install "girsanov[hub]"') from error
    return huggingface_hub


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__


def _table(heading: str, names: tuple[str, str], rows: Mapping[str, str], *, code: bool = False) -> str:
    """A table of two columns under its heading; nothing without rows."""
    lines = [(f"`{name}`" if code else _plain(name), _plain(text)) for name, text in rows.items() if text]
    if not lines:
        return ""
    cells = [names, ("---", "---"), *lines]
    return f"## {heading}\n\n" + "\n".join(f"| {name} | {text} |" for name, text in cells)


def _plain(text: str) -> str:
    """Text of anybody's in one line, without any meaning to Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
