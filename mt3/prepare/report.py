"""Reports: a table, `prepare-report.json`, and the manifest `dataset.json`."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mt3 import datasets, files
from mt3.errors import DataError
from mt3.prepare.items import Problem
from mt3.prepare.plan import SplitPlan
from mt3.prepare.shards import ShardState
from mt3.terminal import to_json

REPORT_NAME = "prepare-report.json"
_LISTED = 20


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """The outcome for one split.

    Attributes:
      plan: what was to be made.
      states: of the shards.
      made: shards that were made now; the others were there.
      listing_problems: songs that were skipped without reading them.
    """

    plan: SplitPlan
    states: tuple[ShardState, ...]
    made: int
    listing_problems: tuple[Problem, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All songs that have no record."""
        found = [problem for state in self.states for problem in state.problems]
        return (*self.listing_problems, *sorted(found, key=lambda p: p.id))

    @property
    def num_records(self) -> int:
        """Records of all shards."""
        return sum(state.records for state in self.states)

    @property
    def seconds(self) -> float:
        """Audio in all records."""
        return sum(state.seconds for state in self.states)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything for the report file."""
        return {
            "settings": dict(self.plan.settings),
            "pattern": self.plan.pattern,
            "songs": sum(state.songs for state in self.states),
            "records": self.num_records,
            "notes": sum(state.notes for state in self.states),
            "seconds": round(self.seconds, 3),
            "bytes": sum(state.size for state in self.states),
            "shards": {"made": self.made, "kept": len(self.states) - self.made},
            "skipped": [_row(problem) for problem in self.problems],
            "remarks": {
                song: list(lines)
                for state in self.states
                for song, lines in state.remarks.items()
            },
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of a run.

    Attributes:
      dataset: its name.
      folder: where it lies.
      source: what it was made from.
      splits: the splits that were prepared.
      problems: songs that belong to no split.
      unfinished: splits of which shards are missing.
      without_songs: splits that no song belongs to.
    """

    dataset: str
    folder: Path
    source: str
    splits: tuple[SplitReport, ...]
    problems: tuple[Problem, ...] = ()
    unfinished: tuple[str, ...] = ()
    without_songs: tuple[str, ...] = ()

    @property
    def all_problems(self) -> list[Problem]:
        """Every song that has no record."""
        return [*self.problems, *(p for split in self.splits for p in split.problems)]

    @property
    def exit_code(self) -> int:
        """1 if any song was skipped because of an error, else 0."""
        return int(any(problem.is_error for problem in self.all_problems))

    def write(self) -> None:
        """Writes the report and the manifest; other splits' entries stay.

        Raises:
          OutputError: they cannot be written.
        """
        splits = _stored(self.folder / REPORT_NAME, "splits")
        splits = {k: v for k, v in splits.items() if k not in self.unfinished}
        splits |= {split.plan.split: split.to_dict() for split in self.splits}
        content = {
            "dataset": self.dataset,
            "source": self.source,
            "splits": splits,
            "skipped": [_row(problem) for problem in self.problems],
        }
        files.write_text(self.folder / REPORT_NAME, _json(content))
        self._write_manifest()

    def _write_manifest(self) -> None:
        path = self.folder / datasets.MANIFEST_NAME
        try:
            splits = dict(datasets.read_manifest(path)["splits"])
        except DataError:  # There is none yet, or it is damaged.
            splits = {}
        for name in self.unfinished:
            splits.pop(name, None)
        for split in self.splits:
            name = split.plan.split
            splits.pop(name, None)
            if split.num_records:
                splits[name] = {
                    "pattern": split.plan.pattern,
                    "num_examples": split.num_records,
                    "seconds": round(split.seconds, 3),
                }
        if not splits:
            path.unlink(missing_ok=True)
            return
        order = {name: place for place, name in enumerate(("train", "validation"))}
        content = {
            "format": datasets.MANIFEST_FORMAT,
            "version": datasets.MANIFEST_VERSION,
            "name": self.dataset,
            "description": f"made by mt3 prepare from {self.source}",
            "splits": dict(sorted(splits.items(), key=lambda s: order.get(s[0], 2))),
        }
        files.write_text(path, _json(content))

    def table(self) -> str:
        """Returns the report as text."""
        rows = [("split", "songs", "records", "hours", "notes", "left out", "errors")]
        for split in self.splits:
            values = split.to_dict()
            errors = sum(problem.is_error for problem in split.problems)
            rows.append(
                (
                    split.plan.split,
                    f"{values['songs']}",
                    f"{values['records']}",
                    f"{split.seconds / 3600:.3f}",
                    f"{values['notes']}",
                    f"{len(split.problems) - errors}",
                    f"{errors}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_aligned(row, widths) for row in rows]
        lines += _listed("error", [p for p in self.all_problems if p.is_error])
        lines += _listed("left out", [p for p in self.all_problems if not p.is_error])
        remarks = [r for s in self.splits for t in s.states for r in t.remarks.values()]
        if remarks:
            lines.append(f"{len(remarks)} songs have remarks in {REPORT_NAME}")
        counts = Counter(
            p["decision"] for r in remarks for p in r if isinstance(p, Mapping)
        )
        if counts:
            listed = (f"{count} {name}" for name, count in counts.most_common())
            lines.append(f"{counts.total()} parts of songs: {', '.join(listed)}")
        lines += [f"split {name!r} has no songs" for name in self.without_songs]
        lines += [
            f"warning: no record was made for split {split.plan.split!r}"
            for split in self.splits
            if not split.num_records
        ]
        made = sum(split.made for split in self.splits)
        total = sum(len(split.states) for split in self.splits)
        lines.append(f"{self.folder}: {made} shards made, {total - made} were there")
        return "\n".join(lines)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *others])


def _listed(kind: str, problems: Sequence[Problem]) -> list[str]:
    """Returns a line for each problem, and how many more there are."""
    lines = [f"{kind}: {problem.id}: {problem.reason}" for problem in problems]
    if len(lines) > _LISTED:
        more = f"{kind}: {len(lines) - _LISTED} more, see {REPORT_NAME}"
        lines = [*lines[:_LISTED], more]
    return lines


def _row(problem: Problem) -> dict[str, Any]:
    return {
        "id": problem.id,
        "kind": "error" if problem.is_error else "left out",
        "reason": problem.reason,
    }


def _stored(path: Path, key: str) -> dict[str, Any]:
    """Returns a part of an earlier report; nothing if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def _json(content: Mapping[str, Any]) -> str:
    return to_json(content, ensure_ascii=False) + "\n"
