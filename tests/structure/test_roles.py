"""Roles line up across exporters: names, shapes, spaces and, for one module, the very values."""

from __future__ import annotations

import numpy as np
import pytest
from zoo_fixture import zoo_model

from graphrebase.io import read_model
from graphrebase.structure import Structure, find_structure

PATHS = ["ts14-eager", "ts14-sdpa", "ts17-sdpa", "dy18-eager", "dy23-sdpa"]
FAMILIES = ["vit-cls", "bert-cls", "gpt2", "llama"]


def structure(family: str, exporter: str, residual: str = "per-point") -> Structure:
    return find_structure(read_model(zoo_model(f"{family}-{exporter}").path), residual=residual)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exporter", PATHS)
def test_two_exports_of_one_module_have_the_same_roles(family: str, exporter: str) -> None:
    one, other = structure(family, "ts17-eager"), structure(family, exporter)
    assert set(one.roles) == set(other.roles)
    for name, role in one.roles.items():
        assert other.roles[name].axes == role.axes, name
        np.testing.assert_allclose(other.read(name), one.read(name), rtol=1e-6, err_msg=name)
    assert one.spaces == other.spaces


@pytest.mark.parametrize("family", FAMILIES)
def test_a_view_writes_what_it_reads(family: str) -> None:
    found = structure(family, "ts17-eager")
    for name, role in found.roles.items():
        stored = np.array(found.model.tensors[role.view.tensor].load())
        blank = np.zeros_like(stored)
        role.view.write(blank, role.view.read(stored))
        np.testing.assert_array_equal(role.view.read(blank), role.view.read(stored), err_msg=name)
        if role.view.whole:
            np.testing.assert_array_equal(blank, stored)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_belongs_to_a_role(family: str) -> None:
    found = structure(family, "ts17-eager")
    covered = {role.view.tensor for role in found.roles.values()}
    for name, ref in found.model.tensors.items():
        learned = ref.dtype.kind == "f" and np.prod(ref.shape) > 1
        assert not learned or name in covered, name


def test_points_follow_the_stream() -> None:
    found = structure("vit-cls", "ts17-eager")
    assert [s for s in found.spaces if s.startswith("residual")] == [
        f"residual.{p}" for p in range(5)
    ]
    pairs = [(skip.before, skip.after) for skip in found.skips]
    assert pairs == [(f"residual.{p}", f"residual.{p + 1}") for p in range(4)]
    assert structure("vit-cls", "ts17-eager", "shared").skips == ()


def test_a_norm_inside_a_head_is_of_the_head() -> None:
    found = structure("bert-mlm", "ts17-eager")
    inside = {name: role.kind for name, role in found.roles.items() if "norm." in name}
    assert [inside[f"head.norm.0.{part}"] for part in ("gain", "bias")] == ["head"] * 2
    assert [name for name in inside if name.startswith("norm.5")] == []
    assert inside["norm.4.gain"] == "norm"


@pytest.mark.parametrize("family", ["vit-cls", "gpt2"])
def test_control_a_norm_before_the_head_is_of_the_body(family: str) -> None:
    assert not any(name.startswith("head.norm") for name in structure(family, "ts17-eager").roles)
