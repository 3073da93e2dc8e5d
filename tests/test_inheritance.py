"""Students that are initialised from their teacher."""

import io
import sys
from argparse import Namespace
from fractions import Fraction
from itertools import islice

import pytest
import torch
from torch.nn import functional as F

from models.build import build_network
from models.counter import new_student
from models.inheritance import choose_channels, inherit
from models.initial import init_kaiming
from models.taps import Adapters, FeatureReader, tap_channels
from training import inheriting
from utils.progress import Bar


def build(arch, width, seed):
    torch.manual_seed(seed)
    network = build_network(arch, width)
    init_kaiming(network)
    return network


def smooth_images(count, seed):
    """Pictures of blobs, whose neighbouring pixels are alike as a photograph's are."""
    noise = torch.randn(count, 3, 16, 24, generator=torch.Generator().manual_seed(seed))
    return list(F.interpolate(noise, size=(96, 144), mode="bicubic").split(1))


def test_channels_that_others_make_up_for_are_not_chosen():
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [3.0, 2.0, 1.0]
    )
    first, second, third = features.T
    mixed = torch.stack([first, 0.5 * first, second, first - second, 0 * first, third], 1)
    products = mixed.double().T @ mixed.double()
    chosen = choose_channels(products, 3)
    assert torch.linalg.matrix_rank(mixed[:, chosen]) == 3
    assert len(set(choose_channels(products, 6).tolist())) == 6  # where nothing is left to explain


def test_chosen_channels_explain_more_than_any_first_ones():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 32, generator=generator) * torch.logspace(0, -2, 8)[:, None]
    features = torch.randn(400, 8, generator=generator) @ mixing

    def unexplained(channels):
        kept = features[:, channels]
        return (features - kept @ torch.linalg.lstsq(kept, features).solution).norm()

    chosen = choose_channels(features.double().T @ features.double(), 4)
    assert unexplained(chosen) < 0.5 * unexplained(torch.arange(4))


@pytest.mark.parametrize("arch", ["csrnet", pytest.param("bl", marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_student_begins_near_its_teacher_on_images_it_was_not_fitted_to(arch):
    teacher = build(arch, Fraction(1, 8), 0)
    seen, unseen = smooth_images(20, 1), torch.cat(smooth_images(4, 2))
    taught = teacher(unseen)

    def unexplained(width):
        student = build(arch, width, 1)
        inherit(student, None, teacher, lambda: seen)
        return F.mse_loss(student(unseen), taught) / taught.var()

    part, whole = unexplained(Fraction(3, 32)), unexplained(Fraction(1, 8))
    assert part < 0.6  # 0.10 and 0.43 seen; a constant map has 1, a random student more
    assert whole < 0.2  # 0.07 and 0.09 seen: a penalty keeps the fit from being exact


@torch.no_grad()
def test_adapters_are_fitted_to_the_student_that_was():
    teacher, student = build("csrnet", Fraction(1, 4), 0), build("csrnet", Fraction(1, 8), 1)
    adapters = Adapters(student.taps, tap_channels(student), tap_channels(teacher))
    inherit(student, adapters, teacher, lambda: smooth_images(16, 1))
    (unseen,) = smooth_images(1, 2)
    features = [FeatureReader(n, n.taps)(unseen)[1] for n in (student, teacher)]
    for adapter, narrow, wide in zip(adapters.values(), *features, strict=True):
        similarity = F.cosine_similarity(F.relu(adapter(narrow)), wide).mean()
        assert similarity > 0.8


def test_a_wider_student_or_one_of_another_architecture_is_refused():
    narrow = build("csrnet", Fraction(1, 16), 0)
    for student in (build("csrnet", Fraction(1, 8), 0), build("bl", Fraction(1, 16), 0)):
        with pytest.raises(ValueError, match="teacher of its own architecture, as wide or wider"):
            inherit(student, None, narrow, lambda: smooth_images(1, 0))


def test_a_teacher_whose_layer_is_dead_leaves_a_student_that_counts():
    teacher, student = build("csrnet", Fraction(1, 8), 0), build("csrnet", Fraction(1, 16), 1)
    torch.nn.init.constant_(teacher.backend.dilated2.bias, -1e6)
    inherit(student, None, teacher, lambda: smooth_images(2, 1))
    assert all(parameter.isfinite().all() for parameter in student.parameters())


def test_students_are_fitted_to_crowds_alone():
    class Pictures:
        empty = [False, True, True, True]

        def __getitem__(self, indices):
            assert {number for number, _ in indices} == {0}
            return {"image": torch.zeros(len(indices), 3, 8, 8)}

    args = Namespace(crops_per_image=2, batch_size=4, seed=0)
    assert len(list(islice(inheriting._first_crops(args, Pictures()), 9))) == 9


def test_fitting_shows_how_far_it_is_and_says_what_it_took(monkeypatch, capsys):
    teacher, student = (new_student("csrnet", Fraction(1, n)) for n in (8, 16))
    noise = torch.randint(0, 256, (1, 3, 48, 64), dtype=torch.uint8)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    bars, clock = [], iter([0, 90])
    monkeypatch.setattr(inheriting, "Bar", lambda **of: bars.append(Bar(**of)) or bars[0])
    monkeypatch.setattr(inheriting, "time", Namespace(perf_counter=clock.__next__))
    monkeypatch.setattr(inheriting, "INHERITED_CROPS", 2)
    monkeypatch.setattr(inheriting, "_first_crops", lambda *_: iter([noise] * 3))
    args = Namespace(teacher_ckpt="teacher.pth", resume=False, device=torch.device("cpu"))
    adapters = Adapters(
        student.network.taps, tap_channels(student.network), tap_channels(teacher.network)
    )
    inheriting.inherit_weights(args, student, adapters, teacher, None)
    first, last = capsys.readouterr().out.splitlines()
    assert first == "fitting the student to teacher.pth at 2 crops"
    assert last == "fitted in 1.5 minutes, which --max-minutes does not count"
    layers = 10 + 6 + 1  # front end, back end and output layer
    assert bars[0].n == bars[0].total == 2 * (1 + layers + 1)
    assert "fitting:   0%" in terminal.getvalue()
