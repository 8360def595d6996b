"""Memory of drawing: what is alive at once is counted, whatever was freed before and whatever is shared."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.machine.memory import DrawingMemory, LiveBytes, bytes_of, drawing_memory
from nftbench.generation.settings.effective import learn_settings
from tests.helpers.models import families

SIZE = SamplingParameters(height=64, width=64, num_inference_steps=2)


def test_only_what_is_alive_at_once_counts():
    known = torch.ones(1000)
    with LiveBytes([known]) as counted:
        view = known[:10]
        one = torch.zeros(100)
        del one
        two = torch.zeros(300)
        three = two.view(3, 100) + 1
    assert counted.most == 2 * 300 * 4 and len(view) == 10 and three.shape == (3, 100)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3))))
def test_the_worst_moment_of_any_coming_and_going(steps):
    """Of each step: how many numbers are made, after how many of the oldest tensors are let go."""
    alive, worst = [], 0
    with LiveBytes([]) as counted:
        for numbers, gone in steps:
            del alive[:gone]
            alive.append(torch.zeros(numbers))
            worst = max(worst, sum(one.nbytes for one in alive))
    assert counted.most == worst


def test_a_convolution_on_a_cpu_copies():
    images, kernel = torch.zeros(1, 4, 16, 16), nn.Conv2d(4, 8, 1, bias=False)
    with LiveBytes([*kernel.parameters(), images]) as counted, torch.no_grad():
        kernel(images)
    assert counted.most == 2 * 8 * 16 * 16 * 4


def test_shared_weights_count_once():
    one, other = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    other.weight = one.weight
    assert bytes_of([one, other]) == 8 * 8 * 4


def test_the_peak_in_closed_form():
    memory = DrawingMemory(weights=100, encoders=60, first=30, further=20)
    assert memory.peak(1, encoders_leave=False) == 130
    assert memory.peak(4, encoders_leave=False) == 190
    assert memory.peak(1, encoders_leave=True) == 100  # while texts are encoded
    assert memory.peak(4, encoders_leave=True) == 130


def test_a_pipeline_is_counted_with_all_its_parts():
    pipeline = families.build("sd3")
    found = drawing_memory(pipeline, learn_settings(pipeline, SIZE))
    parts = [p for p in pipeline.components.values() if isinstance(p, nn.Module)]
    assert found.weights == sum(p.numel() * 4 for part in parts for p in part.parameters()) + sum(
        b.nbytes for part in parts for b in part.buffers()
    )
    assert 0 < found.encoders < found.weights
    assert found.further >= 64 * 64 * 3 * 4  # the pixels of an image
    half = drawing_memory(families.build("sd3").to(torch.float16), learn_settings(pipeline, SIZE))
    assert half.weights < found.weights and half.further < found.further
