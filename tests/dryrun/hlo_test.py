"""Collectives read off HLO text: kinds, sizes, groups, loops and branches, counted by hand."""

import pytest

from espl_jax.dryrun import hlo
from espl_jax.dryrun.hlo import Collective, Running

TEXT = """
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%layer (p: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %p = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)}) parameter(0)
  %g = bf16[8,64]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %reduced = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-reduce(%g), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %t = (s32[], bf16[8,64]) tuple(%i, %reduced)
}

%more_layers (p: (s32[], bf16[8,64])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %below = pred[]{:T(512)} compare(%i, %five), direction=LT
}

%token (p: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %all = (s32[], bf16[8,64]) while(%p), condition=%more_layers, body=%layer
  %start = (f32[16,32]{1,0}, f32[64,32]{1,0}) all-gather-start(%w), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}
  %done = f32[64,32]{1,0} all-gather-done(%start)
  %inner = (s32[]) while(%q), condition=%unknown, body=%pass
  ROOT %r = (s32[], bf16[8,64]) tuple(%i, %x)
}

%pass (p: (s32[])) -> (s32[]) {
  %mass = f32[8]{0} all-reduce(%m), channel_id=3, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %t = (s32[]) tuple(%i)
}

%unknown (p: (s32[])) -> pred[] {
  ROOT %any = pred[] get-tuple-element(%p), index=0
}

%light (a: f32[4]) -> f32[4] {
  ROOT %l = f32[4]{0} collective-permute(%a), channel_id=4, source_target_pairs={{0,1},{1,0}}
}

%heavy (a: f32[4]) -> f32[40] {
  ROOT %h = f32[40]{0} collective-permute(%a), channel_id=5, source_target_pairs={{0,1},{1,0}}
}

ENTRY %main (a: bf16[8,64]) -> bf16[8,64] {
  %a = bf16[8,64]{1,0} parameter(0)
  %tokens = (s32[], bf16[8,64]) while(%t), condition=%unknown, body=%token
  %known = (s32[], bf16[8,64]) while(%t), condition=%unknown, body=%layer, backend_config={"known_trip_count":{"n":"3"}}
  %either = f32[4]{0} conditional(%i, %a, %b), branch_computations={%light, %heavy}
  %fused = f32[4]{0} fusion(%a), kind=kLoop, calls=%light
  ROOT %out = bf16[8,64]{1,0} get-tuple-element(%tokens), index=1
}
"""
LAYER = ("bf16", (8, 64))
GATHER = Collective("all-gather", ("f32", (64, 32)), 8192, 4, 2.0)


def test_everything_is_counted_as_often_as_it_runs():
    found = hlo.collectives(TEXT, 8, Running(loop=lambda depth: (2.0, 7.0)[depth]))
    assert set(found) == {
        Collective("all-reduce", LAYER, 1024, 4, 2 * 5.0 + 3),
        GATHER,
        Collective("all-reduce", ("f32", (8,)), 32, 2, 2 * 7.0),
        Collective("collective-permute", ("f32", (40,)), 160, 8, 1.0),
        Collective("collective-permute", ("f32", (4,)), 16, 8, 1.0),
    }
    assert hlo.by_kind(found)["all-reduce"] == (27.0, 13 * 1024 * 1.5 + 14 * 32)


def test_a_conditional_takes_the_branch_that_it_is_told():
    found = hlo.collectives(TEXT, 8, Running(branch=lambda count: 0 if count == 2 else None))
    assert Collective("collective-permute", ("f32", (4,)), 16, 8, 2.0) in found
    assert not any(one.bytes == 160 for one in found)


@pytest.mark.parametrize(
    "kind, sent",
    [("all-gather", 75), ("all-reduce", 150), ("reduce-scatter", 300), ("all-to-all", 75), ("collective-permute", 100)],
)
def test_bytes_that_a_device_sends(kind, sent):
    assert Collective(kind, ("f32", (25,)), 100, 4, 2.0).sent == 2 * sent


def test_a_weight_gathered_whole_is_found_whatever_its_shape():
    found = hlo.collectives(TEXT, 8, Running())
    assert hlo.whole_weights(found, {(32, 64)}) == [GATHER.__class__("all-gather", ("f32", (64, 32)), 8192, 4, 1.0)]
    assert hlo.whole_weights(found, {(2048,), (7, 5)}) and not hlo.whole_weights(found, {(32, 32), (8, 64)})


def test_what_is_no_hlo_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.collectives("module @jit_step {}", 8, Running())
