"""Tatoeba: short sentences translated by volunteers, https://tatoeba.org, CC BY 2.0 FR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnkit.data.lookup import DATA_VARIABLE, find_local
from attnkit.data.pairs.tsv import Tsv
from attnkit.errors import DataError
from attnkit.registry import PAIRS

URL = "https://www.manythings.org/anki/kor-eng.zip"
PLACE = "tatoeba-eng-kor/kor.txt"


@PAIRS.register("tatoeba")
class Tatoeba(Tsv):
    """Tatoeba English to Korean, some 3,800 pairs, from a local file.

    Looks for the file (`tatoeba-eng-kor/kor.txt` or `kor.txt`) in `root`, then in `$ATTNKIT_DATA`.
    It is not downloaded: the published archive changes every few weeks, so there is no fixed
    sha256. The English side decides the split of a pair.

    Args:
        root: folder to look in first.
        swap: translate from Korean into English.
        val_percent: per cent of the sentences for validation.
        test_percent: per cent of the sentences for the test.
    """

    def __init__(
        self,
        *,
        root: Path | None = None,
        swap: bool = False,
        val_percent: int = 5,
        test_percent: int = 5,
    ) -> None:
        languages = ("Korean", "English") if swap else ("English", "Korean")
        super().__init__(
            file=Path(PLACE),
            swap=swap,
            val_percent=val_percent,
            test_percent=test_percent,
            source_language=languages[0],
            target_language=languages[1],
        )
        self.root = root

    def path(self) -> Path:
        """The file.

        Raises:
            DataError: if it is not on this machine; the message names its source and its place.
        """
        found = find_local(self.root, (PLACE, Path(PLACE).name))
        if found is None:
            raise DataError(
                f"{PLACE} is not on this machine; unpack {URL}, put kor.txt at {PLACE} below a "
                f"folder of yours, and name that folder in data.root or ${DATA_VARIABLE}"
            )
        return found

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "source": "Tatoeba", "licence": "CC BY 2.0 FR"}
