"""Dimension names to mesh axes: the table, its refusals, and meshes (8 devices: tests/sharded_test.py)."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from espl_jax.policy import sharding

MESH = AbstractMesh((2, 3, 1, 4), sharding.AXES)  # data 2, fsdp 3, sequence 1, tensor 4
EMBED, BATCH = ("fsdp", "sequence"), ("data", "fsdp")
DEVICES = [f"device {i}" for i in range(8)]


@pytest.mark.parametrize(
    "names, shape, expected",
    [
        (("embed", "heads"), (6, 8), PartitionSpec(EMBED, ("tensor",))),
        (("mlp", "embed"), (8, 6), PartitionSpec(("tensor",), EMBED)),
        (("vocab", "embed"), (300, 9), PartitionSpec(("tensor",), EMBED)),
        (("batch", "tokens", None), (12, 5, 7), PartitionSpec(BATCH, ("sequence",), None)),
        (("slots", "kv_heads", None, None), (6, 4, 5, 7), PartitionSpec((*BATCH, "sequence"), ("tensor",), None, None)),
        (("together", None, "embed"), (6, 1, 9), PartitionSpec(("data",), None, EMBED)),
        (("norm",), (24,), PartitionSpec(None)),
        (("embed", "lora"), (6, 8), PartitionSpec(EMBED, None)),
    ],
)
def test_names_become_mesh_axes(names, shape, expected):
    assert sharding.partition_spec(names, shape, MESH) == expected


@pytest.mark.parametrize(
    "names, shape, expected",
    [
        (("embed", "heads"), (6, 9), PartitionSpec(EMBED, None)),  # 9 heads on tensor=4
        (("embed", "heads"), (7, 8), PartitionSpec(None, ("tensor",))),
        (("batch",), (8,), PartitionSpec(("data",))),  # divided by 2, but not by 2 x 3
        (("batch",), (9,), PartitionSpec(None)),
    ],
)
def test_what_does_not_divide_is_split_less_or_not(names, shape, expected):
    assert sharding.partition_spec(names, shape, MESH) == expected


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="unknown dimension name 'emebd' in .*; add it to sharding.RULES"):
        sharding.partition_spec(("emebd", "heads"), (6, 8), MESH)


@pytest.mark.parametrize("shape", [(8, 8), (7, 7)])
def test_two_dimensions_on_one_axis_are_an_error_even_where_they_would_not_fit(shape):
    with pytest.raises(ValueError, match=r"puts two dimensions on the mesh axes \['tensor'\]"):
        sharding.partition_spec(("heads", "mlp"), shape, MESH)
    with pytest.raises(ValueError, match=r"\['fsdp'\]"):
        sharding.partition_spec(("batch", "embed"), shape, MESH)


def test_each_dimension_needs_a_name():
    with pytest.raises(ValueError, match=r"an array of shape \(6, 8\) has 1 names"):
        sharding.partition_spec(("embed",), (6, 8), MESH)


def test_every_rule_names_axes_that_exist():
    assert {axis for axes in sharding.RULES.values() for axis in axes} <= set(sharding.AXES)


@pytest.mark.parametrize("rows, expected", [(1, 6), (6, 6), (7, 12), (12, 12)])
def test_batch_rows_are_rounded_up_to_what_the_devices_share(rows, expected):
    assert sharding.batch_rows(rows, MESH) == expected


def test_units_count_where_an_axis_splits():
    assert sharding.rounded(300, "vocab", MESH) == 300
    assert sharding.rounded(300, "vocab", MESH, unit=128) == 512  # a block on each of 4 devices
    assert sharding.rounded(300, "head_dim", MESH, unit=128) == 300


@pytest.mark.parametrize(
    "sizes, shape",
    [
        ((-1, 1, 1, 1), (8, 1, 1, 1)),
        ((2, -1, 2, 1), (2, 2, 1, 2)),
        ((1, 4, -1, 1), (1, 4, 1, 2)),
        ((2, 1, 1, 4), (2, 1, 4, 1)),
        ((2, 1, 2, -1), (2, 1, 2, 2)),
    ],
)
def test_minus_one_is_the_rest_of_the_devices_and_neighbours_are_along_tensor(sizes, shape):
    data, fsdp, tensor, sequence = sizes
    mesh = sharding.make_mesh(data, fsdp, tensor, DEVICES, sequence=sequence)
    assert mesh.axis_names == ("data", "fsdp", "sequence", "tensor") and mesh.devices.shape == shape
    assert mesh.devices.ravel().tolist() == DEVICES


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (0, 1, 1), (1, -2, 1), (-1, 0, 1)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="use sizes of 1 or more, and -1 at most once"):
        sharding.make_mesh(*sizes, DEVICES, sequence=1)


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (2, 2, 1), (16, 1, 1), (-1, 16, 1)])
def test_sizes_that_do_not_multiply_to_the_devices_are_refused(sizes):
    with pytest.raises(ValueError, match="does not fit 8 devices; their product must be that number"):
        sharding.make_mesh(*sizes, DEVICES, sequence=1)


def test_weights_that_a_mesh_would_not_split_are_refused():
    sharding.check_weights({"mlp": ("feed-forward width", 64), "embed": ("width", 9)}, MESH)
    with pytest.raises(ValueError, match="mesh.tensor is 4, which does not divide .* feed-forward width, 66; use 1, 2, 3, 6"):
        sharding.check_weights({"mlp": ("feed-forward width", 66)}, MESH)
    with pytest.raises(ValueError, match="mesh.fsdp \\* mesh.sequence is 3, which .* width, 32; use 1, 2, 4, 8, 16$"):
        sharding.check_weights({"embed": ("width", 32)}, MESH)


@pytest.mark.parametrize(
    "heads, parts, expected",
    [
        ((32, 8), 4, (1, 8)),  # divides
        ((64, 8), 16, (2, 16)),  # two devices share a key/value head
        ((9, 3), 2, (3, 10)),  # 10 heads with a query each; 4 with 3 each would be 12
        ((9, 3), 1, (1, 3)),
        ((2, 2), 4, (1, 4)),
    ],
)
def test_heads_are_copied_and_padded_until_they_divide(heads, parts, expected):
    assert sharding.share_heads(*heads, parts) == expected


def test_shared_heads_cost_the_least_of_all_that_divide():
    for kv_heads, group, parts in itertools.product(range(1, 9), range(1, 9), range(1, 9)):
        copies, padded = sharding.share_heads(kv_heads * group, kv_heads, parts)
        assert group % copies == 0 and padded % parts == 0 and 0 <= padded - kv_heads * copies < parts
        assert padded * group // copies <= -(-kv_heads // parts) * parts * group


def test_gathered_weights_keep_what_tensor_splits():
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1], sequence=1)
    weight = jax.device_put(np.ones((6, 8)), sharding.named_sharding(("embed", "mlp"), (6, 8), mesh))
    assert sharding.gathered({"up": weight})["up"].spec == PartitionSpec(None, ("tensor",))
    np.testing.assert_array_equal(sharding.gather({"up": weight})["up"], weight)


def test_trees_of_names_and_shapes_give_a_tree_of_shardings():
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    names = {"kernel": ("embed", "heads"), "norm": {"scale": ("norm",)}}
    shapes = {"kernel": np.zeros((6, 8)), "norm": {"scale": jax.ShapeDtypeStruct((6,), np.float32)}}
    ours = sharding.tree_shardings(names, shapes, mesh)
    assert ours["kernel"].spec == PartitionSpec(EMBED, ("tensor",)) and ours["kernel"].mesh == mesh
    assert ours["norm"]["scale"].spec == PartitionSpec(None)
    assert sharding.replicated(mesh).spec == PartitionSpec()
