"""The judge itself: what `compare` must let through and what it must catch, and that the cases are well formed."""

import numpy as np
import pytest
import torch

from fastconv.verify.cases import all_cases, cases_of, parse
from fastconv.verify.tolerances import compare, compare_all

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _truth(shape: tuple[int, ...] = (3, 5)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_correctly_rounded_result_always_passes(dtype: torch.dtype) -> None:
    ref = _truth() * 100
    y = torch.from_numpy(ref).to(dtype)
    assert compare(y, ref, None), compare(y, ref, None).message
    assert compare(y, ref, y, exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_wrong_element_is_found_and_named(dtype: torch.dtype) -> None:
    ref = _truth()
    same = torch.from_numpy(ref).to(dtype)
    y = same.clone()
    y[2, 1] += 0.5
    verdict = compare(y, ref, same)
    assert not verdict
    assert verdict.worst == (2, 1)
    assert "(2, 1)" in verdict.message


def test_zeros_do_not_pass_even_within_tolerance() -> None:
    ref = np.full((4,), 0.1)
    coarse = torch.tensor([10.0, 0.1, 0.1, 0.1])  # torch far off: everything small is within its error
    assert not compare(torch.zeros(4), ref, coarse)
    assert compare(torch.zeros(4), np.zeros(4), torch.zeros(4))


def test_nonfinite_elements_must_stand_where_the_reference_has_them() -> None:
    ref = np.array([np.nan, np.inf, -np.inf, 1.0])
    good = torch.tensor([np.nan, np.inf, -np.inf, 1.0])
    assert compare(good, ref, good)
    for index, value in ((0, 0.0), (1, -np.inf), (1, np.nan), (2, -1e30), (3, np.nan), (3, np.inf)):
        bad = good.clone()
        bad[index] = value
        verdict = compare(bad, ref, good)
        assert not verdict and verdict.worst == (index,), (index, value)


def test_overflow_of_the_dtype_is_expected() -> None:
    assert compare(torch.tensor([np.inf], dtype=torch.float16), np.array([1e6]), None)
    assert not compare(torch.tensor([1.0], dtype=torch.float16), np.array([1e6]), None)


def test_exact_rejects_what_the_tolerance_accepts() -> None:
    ref = np.array([3.0, 0.0])
    y = torch.tensor([3.0 + 2**-20, -0.0])
    assert compare(y, ref, None)
    assert not compare(y, ref, None, exact=True)


def test_shape_dtype_count_and_indices() -> None:
    ref = np.zeros((2, 3))
    assert not compare(torch.zeros(3, 2), ref, None)
    assert not compare(torch.zeros(2, 3), ref, torch.zeros(2, 3, dtype=torch.float16))
    assert not compare_all([torch.zeros(2, 3)], [ref, ref], [torch.zeros(2, 3)] * 2)
    assert compare(torch.zeros(0, 3), np.zeros((0, 3)), None)
    index = np.array([1, 2])
    assert compare(torch.tensor([1, 2]), index, torch.tensor([1, 2]))
    assert not compare(torch.tensor([1, 3]), index, torch.tensor([1, 2]))


def test_ids_are_unique_and_costs_are_positive() -> None:
    names = [str(case) for case in all_cases()]
    assert len(names) == len(set(names))
    for case in all_cases():
        assert case.flops() >= 0 and case.bytes(4) >= 0


def test_problem_strings() -> None:
    case = parse("conv2d", "mb8ic64ih56oc64oh56kh3ph1", act="relu")
    assert case.flops() == 2 * 8 * 64 * 56 * 56 * 64 * 9
    assert parse("gemm", "m4k5n6").flops() == 2 * 4 * 5 * 6
    with pytest.raises(ValueError, match="expected op to be one of"):
        parse("conv3d", "mb1")


def test_views_hold_values_of_the_plain_shape_but_lie_otherwise() -> None:
    seen = set()
    for case in cases_of("conv2d"):
        inputs = case.make_inputs(torch.float32)
        x, weight = inputs["x"], inputs["weight"]
        assert x is not None and weight is not None
        if case.view and x.numel():
            seen.add(case.view)
            assert x.is_contiguous() == (case.view in ("weight", "offset"))
            assert weight.is_contiguous() == (case.view != "weight" or weight.shape[-1] == 1)
            assert not (x == 99).any()  # what surrounds the view
            assert (x.storage_offset() > 0) == (case.view in ("sliced", "offset"))
    assert seen == {"sliced", "expanded", "transposed", "offset", "weight"}
