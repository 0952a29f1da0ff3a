"""Denoising attention and the variants it is compared with, for self- and cross-attention.

Every variant is called the same way and returns `(output, attention_map, negative_attention_map)`:

| name in the config | module | per head, with `A(q, k) = softmax(q k^T / sqrt(width of q))` |
|---|---|---|
| `dna` | `DenoisingAttention` | `A(q+, k) v+  +  alpha * A(-q-, k) v-`; the second map is a softmin |
| `dna_shared_value` | `SharedValueDenoisingAttention` | the same with `v- = v+` |
| `softmax` | `SoftmaxAttention` | `A(q, k) v` |
| `differential` | `DifferentialAttention` | `norm((A(q1, k1) - lambda * A(q2, k2)) v) * (1 - lambda_init)` |
| `cog` | `CogAttention` | `sign(s) * softmax(abs(s)) v` with `s = q k^T / sqrt(d)` |

A branch of softmax attention is one call of transformers' attention interface, so that `eager`, `sdpa`,
`flex_attention`, flash attention and kernels from the Hub all work through `set_attn_implementation`:

    forward -> branches (the formula of the variant) -> attend, once per branch -> attention interface -> o_proj

`recompute` goes the same way with an `attend` of its own, which listens: it returns what every branch did.

This file is published with every checkpoint: it imports torch, transformers and the standard library only.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


AttendFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Softmax over the keys that `mask` allows, in float32 or wider.

    Args:
        scores: (..., queries, keys).
        mask: broadcastable to `scores`. Boolean (True = may be attended to) or additive, where minus infinity or the
            lowest number of its dtype forbids a key.

    Returns:
        Weights of the shape of `scores`. A forbidden key has weight exactly 0; so has every key of a query that may
        attend to nothing, which leaves its output 0 instead of NaN.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is None:
        return scores.softmax(dim=-1)
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    if mask.dtype != torch.bool:
        scores = scores + mask.masked_fill(~allowed, 0.0)
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1).masked_fill(~allowed, 0.0)


def softmax_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One branch, `softmax(q k^T / sqrt(d)) v`, written out.

    Args:
        query: (batch, heads, queries, head_dim).
        key: (batch, heads, keys, head_dim).
        value: (batch, heads, keys, value_dim).
        mask: broadcastable to (batch, heads, queries, keys), boolean (True = may be attended to) or additive.
        scaling: factor on the scores, `head_dim ** -0.5` by default.
        dropout: probability with which a weight is dropped from the sum over values.

    Returns:
        The output (batch, queries, heads, value_dim), in the layout of transformers' attention interface, and the
        attention map (batch, heads, queries, keys), before dropout.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = masked_softmax(query @ key.transpose(-1, -2) * scaling, mask).to(query.dtype)
    return (nn.functional.dropout(weights, dropout) @ value).transpose(1, 2), weights


def denoising_attention(
    query_positive: torch.Tensor,
    query_negative: torch.Tensor,
    key: torch.Tensor,
    value_positive: torch.Tensor,
    value_negative: torch.Tensor,
    negative_scale: torch.Tensor,
    attend: AttendFunction = softmax_attention,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Denoising attention: `softmax(q+ k^T / sqrt(d)) v+ + alpha * softmin(q- k^T / sqrt(d)) v-`.

    Because `softmin(z) = softmax(-z)`, the negative branch is ordinary attention with the query negated. The query and
    not the scores, so that a mask which `attend` adds keeps its meaning. Queries, key and values are (batch, heads,
    tokens, head_dim), `negative_scale` (alpha) is (heads). Returns the output (batch, queries, heads, head_dim) and
    the two maps. Source: Denoising Attention for Visual Tasks, ECCV 2026, arXiv:2606.27372.
    """
    positive, positive_map = attend(query_positive, key, value_positive)
    negative, negative_map = attend(-query_negative, key, value_negative)
    output = positive + (negative_scale[:, None] * negative).to(positive.dtype)
    return output, positive_map, negative_map


def cog_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cog attention, `sign(s) * softmax(abs(s)) v` with `s = q k^T / sqrt(d)`; shapes as [`softmax_attention`].

    The map is signed: the absolute values of a row sum to 1. Source: arXiv:2411.07176.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(-1, -2) * scaling
    weights = (scores.sign() * masked_softmax(scores.abs(), mask)).to(query.dtype)
    return (nn.functional.dropout(weights, dropout) @ value).transpose(1, 2), weights


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`softmax_attention`] under the signature of transformers' attention interface."""
    return softmax_attention(query, key, value, attention_mask, scaling, dropout)


def _unchanged(states: torch.Tensor) -> torch.Tensor:
    return states


def backend_mask(mask: Any, implementation: str | None, batch_size: int, num_queries: int, dtype: torch.dtype) -> Any:
    """Give a 4-D mask the form in which a backend honours it; masks of other kinds are passed through.

    Under sdpa and flex attention a query that may attend to nothing then yields exactly 0, as under eager. Flex
    attention would add a boolean mask to the scores and index an additive one without broadcasting, for one head only.

    Raises:
        ValueError: under flex attention, for a mask that differs between heads, and for an additive one on CPU.
    """
    if not isinstance(mask, torch.Tensor) or mask.dim() != 4 or implementation == "eager":
        return mask
    if mask.dtype != torch.bool:
        mask = mask.masked_fill(mask <= torch.finfo(mask.dtype).min, -math.inf).to(dtype)
    if implementation != "flex_attention":
        return mask
    if mask.shape[1] != 1:
        raise ValueError(
            f"flex_attention takes one mask for all heads, got a mask of shape {tuple(mask.shape)}; use eager or sdpa."
        )
    mask = mask.expand(batch_size, 1, num_queries, -1)
    if mask.dtype == torch.bool:
        return flex_block_mask(mask)
    if mask.device.type == "cpu":
        raise ValueError(
            "flex_attention on CPU reads additive masks out of bounds and corrupts memory (torch 2.13): give a "
            "boolean mask, or use eager or sdpa."
        )
    return mask


def flex_block_mask(mask: torch.Tensor) -> BlockMask:
    """The block mask of a boolean mask (batch, 1, queries, keys), for flex attention."""
    batch_size, _, num_queries, num_keys = mask.shape
    # plain indexing of a contiguous mask: with more size variables, the C++ that torch 2.13 generates does not compile
    mask = mask.contiguous()

    def allowed(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return mask[batch, 0, query, key]

    return create_block_mask(allowed, batch_size, None, num_queries, num_keys, device=mask.device)


class Branches(NamedTuple):
    """What the branches of one attention did in one call.

    The positive branch comes first, the negative one second; the two halves of differential attention are its
    branches, and softmax and cog attention have one.

    Args:
        outputs: one (batch, heads, queries, head_dim) per branch: map times values, before alpha and projection.
        values: one (batch, heads, keys, head_dim) per branch; the same twice where the branches share them.
        maps: one (batch, heads, queries, keys) per branch; signed under cog attention.
        scale: factor (heads) with which the second output is added to the first; see `VariantAttention.branch_scale`.
    """

    outputs: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    maps: tuple[torch.Tensor, ...]
    scale: torch.Tensor | None


class VariantAttention(nn.Module):
    """What all variants share: head geometry, the choice of backend, masks and the output projection.

    Args:
        config: gives `hidden_size`, `num_attention_heads`, `qkv_bias`, `attention_probs_dropout_prob` and the
            attention implementation.
        layer_idx: index of the layer, counted from 0.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"hidden_size ({config.hidden_size}) is not a multiple of num_attention_heads "
                f"({config.num_attention_heads})."
            )
        self.config = config
        self.layer_idx = layer_idx
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def _projection(self) -> nn.Linear:
        return nn.Linear(self.config.hidden_size, self.config.hidden_size, bias=self.config.qkv_bias)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) -> (batch, heads, tokens, head_dim)."""
        return states.view(*states.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def takes_packed_sequences(self, implementation: str | None) -> bool:
        """Whether `cu_seq_lens_q` keeps sequences apart; backends other than flash attention ignore it."""
        return "flash" in (implementation or "")

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(kwargs.pop("implementation"), eager_attention)
        output, weights = attention(self, query, key, value, scaling=self.scaling, **kwargs)
        # flex attention returns its log-sum-exp in the place of the map
        return output, weights if weights is not None and weights.dim() == 4 else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        rotary: Callable[[torch.Tensor], torch.Tensor] | None = None,
        implementation: str | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Attend from `hidden_states` to itself or to `key_value_states`.

        Args:
            hidden_states: (batch, queries, width).
            attention_mask: 4-D, broadcastable to (batch, heads, queries, keys), boolean (True = may be attended to) or
                additive; or whatever the backend understands.
            key_value_states: (batch, keys, width) for cross-attention.
            rotary: applied to every query and key in the layout (batch, heads, tokens, head_dim), e.g. a rotary
                position embedding; never to values. Differential attention calls it on its half-width heads.
            implementation: overrides the attention implementation of the config for this call.
            kwargs: arguments of the backend; `cu_seq_lens_q` and its companions pack several sequences under flash
                attention.

        Raises:
            ValueError: for packed sequences where they would attend to each other, and for a mask that the backend
                does not honour.

        Returns:
            The output (batch, queries, width) and the two attention maps (batch, heads, queries, keys): `None` where
            the backend does not form them (all but eager) or the variant has no second one.
        """
        implementation = implementation or self.config._attn_implementation
        if kwargs.get("cu_seq_lens_q") is not None and not self.takes_packed_sequences(implementation):
            raise ValueError("sequences packed by cu_seq_lens_q need flash attention and no cog variant: give a mask.")
        mask = backend_mask(
            attention_mask, implementation, hidden_states.shape[0], hidden_states.shape[1], hidden_states.dtype
        )
        attend = partial(
            self._attend,
            attention_mask=mask,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            implementation=implementation,
            **kwargs,
        )
        sources = hidden_states if key_value_states is None else key_value_states
        output, *maps = self.branches(hidden_states, sources, rotary or _unchanged, attend)
        return self.o_proj(output.reshape(*hidden_states.shape)), *maps

    def check_repeatable(
        self, hidden_states: torch.Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """See that a call of `forward`, with these arguments, can be repeated by [`recompute`].

        Raises:
            ValueError: for a mask in a form that only its attention implementation understands, and for packed
                sequences.
        """
        if attention_mask is not None and not (isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 4):
            raise ValueError(
                "the mask is in a form that only its attention implementation understands: use eager or sdpa."
            )
        if kwargs.get("cu_seq_lens_q") is not None:
            raise ValueError(
                "sequences packed by cu_seq_lens_q need flash attention, which writes no map: use eager or sdpa."
            )

    @torch.no_grad()
    def recompute(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        rotary: Callable[[torch.Tensor], torch.Tensor] | None = None,
        implementation: str | None = None,
        *,
        heads: Sequence[int] | None = None,
        queries: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Branches:
        """Repeat a call of `forward` to see what its branches do: their maps, values and outputs.

        The maps are formed eagerly, without dropout and without gradients, whatever the attention implementation of
        the model. The formula of the variant is not repeated: only the calls of `attend` inside it are listened to.

        Args:
            hidden_states: (batch, queries, width), as `forward` got them.
            attention_mask: 4-D mask, as `forward` got it.
            key_value_states: (batch, keys, width), as `forward` got them.
            rotary: position embedding of queries and keys, as `forward` got it.
            implementation: not used, so that the arguments of `forward` can be given as they are.
            heads: numbers of the heads to look at; all by default.
            queries: numbers of the queries to look at, counted in `hidden_states`; all by default.
            kwargs: further arguments that `forward` got for its backend; they are not used.

        Raises:
            ValueError: see [`check_repeatable`].
        """
        self.check_repeatable(hidden_states, attention_mask, **kwargs)
        every = slice(None)
        own = every if heads is None else torch.tensor(heads, device=hidden_states.device)
        rows = every if queries is None else torch.tensor(queries, device=hidden_states.device)
        if attention_mask is not None:
            # a dimension of size 1 is for all heads, or for all queries
            attention_mask = attention_mask[:, own] if attention_mask.shape[1] > 1 else attention_mask
            attention_mask = attention_mask[:, :, rows] if attention_mask.shape[2] > 1 else attention_mask
        seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, None]:
            query, key, value_of_heads = query[:, own][:, :, rows], key[:, own], value[:, own]
            output, weights = self._attend(
                query, key, value_of_heads, attention_mask=attention_mask, dropout=0.0, implementation="eager"
            )
            assert weights is not None  # eager attention always forms its map
            seen.append((output.transpose(1, 2), value_of_heads, weights))
            # what the formula makes of the outputs is not asked for: it goes on with zeros of their shape
            batch_size, num_heads, _, value_dim = value.shape
            return value.new_zeros(()).expand(batch_size, hidden_states.shape[1], num_heads, value_dim), None

        sources = hidden_states if key_value_states is None else key_value_states
        self.branches(hidden_states, sources, rotary or _unchanged, attend)
        scale = self.branch_scale()
        outputs, values, maps = zip(*seen, strict=True)
        return Branches(outputs, values, maps, scale if scale is None else scale[own])

    def branches(
        self,
        targets: torch.Tensor,
        sources: torch.Tensor,
        rotary: Callable[[torch.Tensor], torch.Tensor],
        attend: AttendFunction,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Project, attend and combine: the formula of the variant, before the output projection."""
        raise NotImplementedError

    def branch_scale(self) -> torch.Tensor | None:
        """Factor (heads) of the second branch: alpha, or minus lambda; `None` for a single branch."""
        return None

    def reset_parameters(self) -> None:
        """Initialise what is neither a linear layer nor a norm; called from `_init_weights` of the models."""


class SoftmaxAttention(VariantAttention):
    """Multi-head attention, the baseline."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.q_proj, self.k_proj, self.v_proj = self._projection(), self._projection(), self._projection()

    def branches(self, targets, sources, rotary, attend):
        query = rotary(self._split_heads(self.q_proj(targets)))
        key = rotary(self._split_heads(self.k_proj(sources)))
        return *attend(query, key, self._split_heads(self.v_proj(sources))), None


class AdaptableScale(nn.Module):
    """What an adapter adds to the scales of the heads: nothing in a model, `offset` (heads) in an adapter.

    PEFT trains and saves no single parameters, but whole modules (`modules_to_save`): it puts a wrapper in the place
    of a module, which holds the module and, for each adapter, a copy that `copy.deepcopy` makes of it. This module has
    no parameter, so that the only one of a model is `negative_scale`, as in every checkpoint. A copy of this module
    alone, which PEFT makes, begins with an `offset` of 0; one that is made together with the model around it, as
    `copy.deepcopy(model)` does, is like the original.

    Args:
        num_heads: number of heads.
    """

    empty: torch.Tensor
    offset: nn.Parameter | None

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # has no values, but the device and the dtype of the model
        self.register_buffer("empty", torch.empty(0), persistent=False)
        self.register_parameter("offset", None)

    def forward(self, scale: torch.Tensor) -> torch.Tensor:
        return scale if self.offset is None else scale + self.offset

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # how copies are made. A __deepcopy__ would do it for the wrapper, too: PEFT's has what the module within has
        return _copied_scale, (_IsAlone(), self.num_heads), super().__reduce_ex__(protocol)[2]

    def __setstate__(self, state: dict[str, Any]) -> None:
        is_alone = self.__dict__.pop("is_alone", False)
        super().__setstate__(state)
        if is_alone and self.offset is None:
            self.offset = nn.Parameter(torch.zeros(self.num_heads, dtype=self.empty.dtype, device=self.empty.device))


class _IsAlone:
    """What `copy.deepcopy` makes a bool of: whether the module that holds this is the first thing that it copies.

    Its memo has what it has copied so far. Pickle, which keeps this object as it is, makes no adapters.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> bool:
        return not memo


def _copied_scale(is_alone: bool | _IsAlone, num_heads: int) -> AdaptableScale:
    """An [`AdaptableScale`] that `__setstate__` finishes: the state of the original is copied after this."""
    copied = AdaptableScale(num_heads)
    copied.__dict__["is_alone"] = is_alone is True
    return copied


class DenoisingAttention(VariantAttention):
    """Denoising attention: two query/value branches over one shared key, one learnable scale per head.

    `negative_scale` (heads) is the paper's alpha with the paper's sign: it is added, and free to become negative. PEFT
    trains and saves it with `modules_to_save=["negative_scale"]`.
    """

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.q_pos_proj, self.q_neg_proj, self.k_proj = self._projection(), self._projection(), self._projection()
        self._add_value_projections()
        self.negative_scale = nn.Parameter(torch.full((self.num_heads,), float(config.negative_scale_init)))
        # PEFT finds modules by the ends of their names
        self.adapted_negative_scale = AdaptableScale(self.num_heads)

    def __setattr__(self, name: str, value: Any) -> None:
        offset = value.offset if isinstance(value, AdaptableScale) else None
        if offset is not None:
            # an adapter is merged: PEFT puts the module that it trained in the place of its wrapper
            with torch.no_grad():
                self.negative_scale.add_(offset)
            value = AdaptableScale(self.num_heads).to(offset)
        super().__setattr__(name, value)

    def scale(self) -> torch.Tensor:
        """Alpha (heads), with what an active adapter adds to it."""
        return self.adapted_negative_scale(self.negative_scale)

    def _add_value_projections(self) -> None:
        self.v_pos_proj, self.v_neg_proj = self._projection(), self._projection()

    def _values(self, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._split_heads(self.v_pos_proj(sources)), self._split_heads(self.v_neg_proj(sources))

    def branches(self, targets, sources, rotary, attend):
        query_positive = rotary(self._split_heads(self.q_pos_proj(targets)))
        query_negative = rotary(self._split_heads(self.q_neg_proj(targets)))
        key = rotary(self._split_heads(self.k_proj(sources)))
        return denoising_attention(query_positive, query_negative, key, *self._values(sources), self.scale(), attend)

    def branch_scale(self) -> torch.Tensor:
        return self.scale().detach()

    def reset_parameters(self) -> None:
        init.constant_(self.negative_scale, self.config.negative_scale_init)


class SharedValueDenoisingAttention(DenoisingAttention):
    """The paper's ablation: both branches read the same values, `(A+ + alpha * A-) v`."""

    def _add_value_projections(self) -> None:
        self.v_proj = self._projection()

    def _values(self, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value = self._split_heads(self.v_proj(sources))
        return value, value


class DifferentialAttention(VariantAttention):
    """Differential attention: the difference of two softmax maps, normalised per head. Source: arXiv:2410.05258.

    `num_attention_heads` counts differential heads: each splits its queries and keys into two halves of
    `head_dim / 2` and keeps values of `head_dim`, so that the parameters are those of softmax attention up to the
    lambda vectors and the norm. The Transformer of the source uses half as many heads as its softmax baseline.
    lambda is re-parameterised as `exp(lq1 . lk1) - exp(lq2 . lk2) + lambda_init` with
    `lambda_init = 0.8 - 0.6 exp(-0.3 layer_idx)`.

    Raises:
        ValueError: if a head has an odd width.
    """

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        if self.head_dim % 2:
            raise ValueError(f"differential attention splits every head in two, but a head is {self.head_dim} wide.")
        self.half_dim = self.head_dim // 2
        self.scaling = self.half_dim**-0.5
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer_idx)
        self.q_proj, self.k_proj, self.v_proj = self._projection(), self._projection(), self._projection()
        self.lambda_q1 = nn.Parameter(torch.randn(self.half_dim) * 0.1)
        self.lambda_k1 = nn.Parameter(torch.randn(self.half_dim) * 0.1)
        self.lambda_q2 = nn.Parameter(torch.randn(self.half_dim) * 0.1)
        self.lambda_k2 = nn.Parameter(torch.randn(self.half_dim) * 0.1)
        self.head_norm = nn.RMSNorm(self.head_dim, eps=1e-5)

    def _split_halves(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, tokens, width) -> two of (batch, heads, tokens, head_dim / 2)."""
        halves = states.view(*states.shape[:-1], self.num_heads, 2, self.half_dim).transpose(1, 2)
        return halves[..., 0, :], halves[..., 1, :]

    def current_lambda(self) -> torch.Tensor:
        """The scalar lambda of this layer, in float32 as in the published implementations."""
        dtype = torch.promote_types(self.lambda_q1.dtype, torch.float32)
        first = (self.lambda_q1.to(dtype) * self.lambda_k1.to(dtype)).sum().float().exp()
        second = (self.lambda_q2.to(dtype) * self.lambda_k2.to(dtype)).sum().float().exp()
        return first - second + self.lambda_init

    def branches(self, targets, sources, rotary, attend):
        query_1, query_2 = map(rotary, self._split_halves(self.q_proj(targets)))
        key_1, key_2 = map(rotary, self._split_halves(self.k_proj(sources)))
        value = self._split_heads(self.v_proj(sources))
        first, first_map = attend(query_1, key_1, value)
        second, second_map = attend(query_2, key_2, value)
        difference = first - (self.current_lambda() * second).to(first.dtype)
        return self.head_norm(difference) * (1 - self.lambda_init), first_map, second_map

    def branch_scale(self) -> torch.Tensor:
        return -self.current_lambda().detach().expand(self.num_heads)

    def _attend(self, query, key, value, **kwargs):
        if "flash" in (kwargs["implementation"] or ""):
            # flash kernels want queries and keys as wide as values; zeros do not change the scores
            query, key = (nn.functional.pad(states, (0, self.half_dim)) for states in (query, key))
        return super()._attend(query, key, value, **kwargs)

    def reset_parameters(self) -> None:
        for vector in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2):
            init.normal_(vector, mean=0.0, std=0.1)


class CogAttention(SoftmaxAttention):
    """Cog attention: signed weights. It forms its map explicitly, whatever the attention implementation.

    Raises:
        ValueError: for a mask that is not a 4-D tensor, as the flash and flex attention mask functions make.
    """

    def takes_packed_sequences(self, implementation):
        return False

    def _attend(self, query, key, value, attention_mask=None, dropout=0.0, implementation=None, **kwargs):
        if attention_mask is not None and (not isinstance(attention_mask, torch.Tensor) or attention_mask.dim() != 4):
            raise ValueError("the cog variant computes its map explicitly: with a mask, use eager or sdpa.")
        output, weights = cog_attention(query, key, value, attention_mask, self.scaling, dropout)
        return output, weights if implementation == "eager" else None


ATTENTION_VARIANTS: dict[str, type[VariantAttention]] = {
    "dna": DenoisingAttention,
    "dna_shared_value": SharedValueDenoisingAttention,
    "softmax": SoftmaxAttention,
    "differential": DifferentialAttention,
    "cog": CogAttention,
}

# the variants whose heads form a second map
TWO_MAP_VARIANTS = ("dna", "dna_shared_value", "differential")


def build_attention(config: Any, layer_idx: int) -> VariantAttention:
    """Build the attention of one layer from `config.attention_variant`.

    The layers named in `config.cog_softmax_layers` keep softmax attention when the variant is `cog`.

    Raises:
        ValueError: for an unknown variant.
    """
    variant = config.attention_variant
    if variant not in ATTENTION_VARIANTS:
        raise ValueError(f"unknown attention_variant {variant!r}: choose one of {', '.join(ATTENTION_VARIANTS)}.")
    softmax_layers = {index % config.num_hidden_layers for index in config.cog_softmax_layers}
    if variant == "cog" and layer_idx in softmax_layers:
        variant = "softmax"
    return ATTENTION_VARIANTS[variant](config, layer_idx)
