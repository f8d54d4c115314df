"""Compiled blocks under guidance: the pictures of plain ones, one graph for all layouts of rows."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

import chats
from chats.denoising.adapter_rows import LowRank, add_pair_adapters, lora_layers
from chats.denoising.families import denoiser_of
from chats.denoising.masked_rows import masked_rows
from chats.errors import UserError
from tests.steps import relative_error, seeds
from tests.test_pipeline import state_of
from tests.tiny import tiny_call, tiny_pair, tiny_pipeline

# torch.compile imports parts of torch that warn of torch's own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
TOLERANCE = 1e-10
PROMPTS = ["ab", "cd ef gh", "x"]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self):
        self.num_graphs = 0

    def __call__(self, graph, example_inputs):
        self.num_graphs += 1
        return graph.forward


def painted(pipe, pair, family="sd15", **settings):
    with chats.guidance(pipe, pair, scale=4.0, **settings):
        return pipe(PROMPTS, generator=seeds(3), **tiny_call(family)).images


def test_an_unknown_name_is_refused():
    layer = torch.nn.Linear(2, 2)
    adapter = LowRank(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)
    with (
        masked_rows({layer: {"preferred": adapter}}) as mask,
        pytest.raises(UserError, match=r"Unknown adapter names \['good'\]"),
    ):
        mask.choose(["good"])


def test_layers_that_are_offloaded_one_by_one_are_refused():
    layer = add_hook_to_module(torch.nn.Linear(2, 2), AlignDevicesHook(execution_device="cpu"))
    adapter = LowRank(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)
    with (
        pytest.raises(UserError, match="layers that are offloaded one by one"),
        masked_rows({layer: {"preferred": adapter}}),
    ):
        pass


@pytest.mark.parametrize("layer", [torch.nn.Linear(3, 5), torch.nn.Conv2d(3, 5, 3, padding=1)])
@torch.no_grad()
def test_each_row_gets_its_own_update_whatever_the_ranks(layer):
    """W·x + 2·B·A·x in row 0, W·x + ½·B′·A′·x in row 2, W·x in row 1."""
    layer = layer.double()
    kernel = layer.weight.shape[2:]
    point = (1, 1) if kernel else ()
    first = LowRank(torch.randn(2, 3, *kernel).double(), torch.randn(5, 2, *point).double(), 2.0)
    other = LowRank(torch.randn(1, 3, *kernel).double(), torch.randn(5, 1, *point).double(), 0.5)
    inputs = torch.randn(3, 3, 4, 4) if kernel else torch.randn(3, 4, 3)
    inputs = inputs.double()
    plain = layer(inputs)
    kind, before = type(layer), sorted(vars(layer))
    with masked_rows({layer: {"dispreferred": other, "preferred": first}}) as mask:
        mask.choose(["preferred", "__base__", "dispreferred"])
        mixed = layer(inputs)
    assert (type(layer), sorted(vars(layer))) == (kind, before)
    hand = plain.clone()
    for row, adapter in ((0, first), (2, other)):
        part = output = inputs[row : row + 1]
        if kernel:
            output = torch.nn.functional.conv2d(part, adapter.down, padding=1)
            output = torch.nn.functional.conv2d(output, adapter.up)
        else:
            output = part @ adapter.down.T @ adapter.up.T
        hand[row] += adapter.scaling * output[0]
    assert relative_error(mixed, hand) < TOLERANCE


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_compiled_blocks_paint_what_plain_ones_do(family, kind):
    pipe = tiny_pipeline(family)
    pair = tiny_pair(pipe, kind)
    expected = painted(pipe, pair, family)
    before = state_of(pipe)
    for denoiser in {denoiser_of(pipe), *([] if kind == "lora" else pair.halves().values())}:
        if family == "sd15":
            denoiser.compile_repeated_blocks(backend="eager", fullgraph=True)
            continue
        for block in denoiser.transformer_blocks:  # diffusers does not say that they are repeated
            block.compile(backend="eager", fullgraph=True)
    assert relative_error(painted(pipe, pair, family), expected) < TOLERANCE
    assert state_of(pipe)["modules"] == before["modules"]
    assert state_of(pipe)["hooks"] == before["hooks"]


def test_another_layout_of_rows_needs_no_other_graph_and_blocks_share_theirs():
    """Six rows each: CHATS, CFG and NPO of three pictures, then a mixture; without a break."""
    pipe, count = tiny_pipeline("sd15"), Counting()
    pair = tiny_pair(pipe, "lora")
    layouts = ["chats", "cfg", "npo", ["cfg", "preferred-cfg", "chats"]]
    expected = [painted(pipe, pair, method=method) for method in layouts]
    pipe.unet.compile_repeated_blocks(backend=count, fullgraph=True)
    graphs = []
    for method, picture in zip(layouts, expected, strict=True):
        assert relative_error(painted(pipe, pair, method=method), picture) < TOLERANCE
        graphs.append(count.num_graphs)
    assert len(set(graphs)) == 1
    assert graphs[0] == 1


def test_outside_the_context_a_compiled_pipeline_is_as_before():
    pipe = tiny_pipeline("sd15")
    stock = pipe("ab", generator=seeds(1), **tiny_call("sd15")).images
    pair = tiny_pair(pipe, "lora")
    pipe.unet.compile_repeated_blocks(backend="eager", fullgraph=True)
    painted(pipe, pair)
    again = pipe("ab", generator=seeds(1), **tiny_call("sd15")).images
    assert relative_error(again, stock) < TOLERANCE


def test_adapters_that_a_compiled_denoiser_carries_are_mixed_too():
    pipe = tiny_pipeline("sd15")
    add_pair_adapters(pipe.unet, rank=2, alpha=3, targets=("to_q", "to_v"))
    for layer in lora_layers(pipe.unet):
        for module in layer.lora_B.values():
            torch.nn.init.normal_(module.weight)
    expected = painted(pipe, None)
    pipe.unet.compile_repeated_blocks(backend="eager")
    assert relative_error(painted(pipe, None), expected) < TOLERANCE
