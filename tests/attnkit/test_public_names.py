"""What `import attnkit` offers to Python users."""

import ast
import inspect
from pathlib import Path

import pytest
import torch

import attnkit


def test_the_names_for_type_checkers_are_those_that_are_loaded():
    tree = ast.parse(Path(attnkit.__file__).read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {(node.module, name.name) for node in checked.body for name in node.names}
    assert declared == {(module, name) for name, module in attnkit._MODULE_OF.items()}
    assert dir(attnkit) == attnkit.__all__ == sorted(name for _, name in declared)


@pytest.mark.parametrize("name", attnkit.__all__)
def test_every_name_is_there_and_explained(name):
    assert inspect.getdoc(getattr(attnkit, name))


def test_star_imports_bring_them_all():
    names = {}
    exec("from attnkit import *", names)
    assert set(attnkit.__all__) <= set(names)


def test_a_run_in_a_few_lines(small):
    recipe = attnkit.recipe_from_dict(small().to_dict(), ["seed=2", "trainer.max_steps=2"])
    result = attnkit.run(recipe)
    assert result.directory == recipe.run_dir
    trained = attnkit.load_run(result.directory)
    assert isinstance(trained, attnkit.TrainedRun)
    assert trained.recipe.seed == 2
    assert len(trained.generate("the ", max_new_tokens=5, temperature=0)) >= 5


def test_a_mechanism_drops_into_a_module_of_ones_own():
    attention = attnkit.build_attention({"name": "multi_head", "num_heads": 2}, 8)
    x = torch.randn(1, 5, 8)
    assert attention(x, x, attnkit.build_mask("causal")).shape == (1, 5, 8)
    weights = attnkit.attention_map(attention, x, x, attnkit.build_mask("causal"))
    assert weights.shape == (1, 2, 5, 5)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(1, 2, 5))
