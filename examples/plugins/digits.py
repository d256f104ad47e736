"""Image classification as a task of one file: small images, cut into patches, through the layers of
a language model without a mask (as ViT, arXiv:2010.11929). The recipe is `digits.yaml`.

Shape letters: `B` images, `N` patches of an image, `P` pixels of a patch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attnkit import TASKS, LanguageModel, Recipe, Spec, Task, TaskDefinition, TrainedRun
from attnkit.attention_page.text_maps import TextMaps
from attnkit.data.task_data import TensorData
from attnkit.errors import DataError
from attnkit.registry import Registry
from attnkit.training.probe import Probe

IMAGES = Registry("set of images", __name__)
SHOWN = 10


class Images(NamedTuple):
    """Images in patches (B, N, P), from 0 to 1, and their labels (B,)."""

    patches: Tensor
    labels: Tensor


@IMAGES.register("digits")
class Digits:
    """Handwritten digits, 8 x 8 pixels, from scikit-learn; every fifth is a validation image.

    Args:
        patch: side of a patch in pixels: 1, 2 or 4.
    """

    classes, side = 10, 8

    def __init__(self, *, patch: int = 2) -> None:
        if patch not in (1, 2, 4):
            raise DataError(f"data.patch must be 1, 2 or 4, got {patch}")
        self.patch, self.grid = patch, self.side // patch

    def read(self) -> tuple[Images, Images]:
        """Returns the training and the validation images."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            message = "data.digits comes with scikit-learn: pip install scikit-learn"
            raise DataError(message) from error
        images, labels = load_digits(return_X_y=True)
        cut = torch.tensor(images / 16, dtype=torch.float32)
        cut = cut.view(-1, self.grid, self.patch, self.grid, self.patch).transpose(2, 3)
        every = Images(cut.reshape(len(cut), -1, self.patch**2), torch.tensor(labels))
        is_val = torch.arange(len(cut)) % 5 == 0
        return Images(*(x[~is_val] for x in every)), Images(*(x[is_val] for x in every))


def patch_labels(patches: Tensor) -> list[str]:
    """Returns row and column of each patch of an image, for the axes of maps."""
    side = math.isqrt(patches.shape[-2])
    return [f"{row},{column}" for row in range(side) for column in range(side)]


class PatchClassifier(LanguageModel):
    """The layers of a language model between patches and classes: (B, N, P) -> (B, classes)."""

    def __init__(
        self, classes: int, pixels: int, *, dim: int = 64, tied_embeddings: bool = False, **options
    ) -> None:
        super().__init__(classes, dim=dim, tied_embeddings=tied_embeddings, **options)
        self.embedding = nn.Linear(pixels, dim)

    def forward(self, patches: Tensor, **options) -> Tensor:
        return super().forward(patches, **options).mean(dim=1)


class ImageTask(Task):
    """Mean cross-entropy of the classes, in nats."""

    equal_batches = True

    def losses(self, batch: Images) -> dict[str, Tensor]:
        return {"cross_entropy": cross_entropy(self.run_model(batch.patches), batch.labels)}

    def measure(self, batch: Images) -> dict[str, Tensor]:
        logits = self.run_model(batch.patches)
        accuracy = (logits.argmax(-1) == batch.labels).float().mean()
        return {"loss": cross_entropy(logits, batch.labels), "accuracy": accuracy}

    def num_targets(self, batch: Images) -> int:
        return len(batch.labels)

    def probes(self, num_tokens: int, text: str | None) -> list[Probe]:
        image = self.data.val.patches[:1]
        return [Probe("probe", (image,), patch_labels(image), patch_labels(image), "image 0")]

    def sample(self, final: bool = False) -> str:
        with torch.no_grad():
            classes = self.model(self.data.val.patches[:SHOWN].to(self.device)).argmax(-1).tolist()
        return f"label  {self.data.val.labels[:SHOWN].tolist()}\nmodel  {classes}"

    def example(self) -> str:
        return "0"


class ImageRun(TrainedRun):
    """A trained classifier. `attention` takes the number of a validation image as its text."""

    def attention(self, text: str) -> TextMaps:
        data = self.recipe.definition.build_data(self.recipe)
        data.prepare()
        if not text.isdecimal() or int(text) >= len(data.val.labels):
            raise DataError(f"--text is the number of an image, below {len(data.val.labels)}")
        image, label = data.val.patches[int(text)][None], data.val.labels[int(text)]
        note = f"image {text} is a {label}, classified as {self.model(image).argmax()}"
        return self.maps_of((image,), patch_labels(image), notes=[note])


@TASKS.register("image_classification")
class ImageClassification(TaskDefinition):
    """Classify images."""

    data, default_data = IMAGES, Spec("digits")
    model, module, run_class, example_sizes = PatchClassifier, ImageTask, ImageRun, (10, 4)

    def check(self, recipe: Recipe):
        patches = IMAGES.build(recipe.data).grid ** 2
        if recipe.model["max_seq_len"] != patches:
            yield "model.max_seq_len", f"an image has {patches} patches; set it to {patches}"

    def build_data(self, recipe: Recipe) -> TensorData:
        source = IMAGES.build(recipe.data)
        return TensorData(
            recipe.data.name,
            source.read,
            batch_size=recipe.trainer.batch_size,
            seed=recipe.seed,
            vocab_sizes=(source.classes, source.patch**2),
            length=source.grid**2,
        )

    def sizes(self, recipe: Recipe) -> tuple[tuple[int, ...], str]:
        return self.build_data(recipe).vocab_sizes, "classes, and pixels of a patch"
