"""Multi30k: image captions, English and German (Elliott et al. 2016, arXiv:1605.00459)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from attnkit.data.line_files import read_aligned
from attnkit.data.lookup import download, find_local, sha256_of
from attnkit.data.pairs.base import Pair, PairSource, sha256_of_texts
from attnkit.errors import DataError
from attnkit.registry import PAIRS

URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"

SHA256 = {
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
}

STEMS = {"train": "train", "val": "val", "test2016": "test_2016_flickr"}


@PAIRS.register("multi30k")
class Multi30k(PairSource):
    """Multi30k, raw text: 29,000 training pairs, 1,014 for validation, 1,000 of test2016.

    Looks for the files `multi30k/train.en.gz` and so on in `root`, then in `$ATTNKIT_DATA`;
    otherwise downloads them to the cache. Checks their sha256 in any case. The authors state no
    licence: for research use.

    Args:
        root: folder to look in first.
        swap: translate from German into English.
    """

    def __init__(self, *, root: Path | None = None, swap: bool = False) -> None:
        self.root = root
        self.swap = swap
        languages = ("English", "German")
        self.source_language, self.target_language = languages[::-1] if swap else languages

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The test set with published scores."""
        return ("test2016",)

    def pairs(self, split: str) -> Iterator[Pair]:
        self.check_split(split)
        paths = self._paths
        stem = STEMS[split]
        for english, german in read_aligned(paths[f"{stem}.en.gz"], paths[f"{stem}.de.gz"]):
            yield Pair(german, english) if self.swap else Pair(english, german)

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {name: self._path(name) for name in SHA256}

    def _path(self, name: str) -> Path:
        place = f"multi30k/{name}"
        path = find_local(self.root, (place, name))
        if path is None:
            return download(f"{URL}/{name}", SHA256[name], f"multi30k-{name}", place_at=place)
        found = sha256_of(path)
        if found != SHA256[name]:
            raise DataError(
                f"{path} is not Multi30k's {name}: its sha256 is {found}, expected {SHA256[name]}; "
                "replace it, or delete it to download it"
            )
        return path

    def fingerprint(self) -> str:
        return sha256_of_texts([*SHA256.values(), str(self.swap)])

    def describe(self) -> dict[str, Any]:
        return {
            "source": "Multi30k task 1 (github.com/multi30k/dataset, raw)",
            "licence": "not stated",
            "files": {
                name: {"path": str(path), "sha256": SHA256[name]}
                for name, path in self._paths.items()
            },
            "sha256": self.fingerprint(),
        }
