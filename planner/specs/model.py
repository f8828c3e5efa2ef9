"""What a model is: its layers and their dimensions, nothing about how it is run.

Every family reduces to a list of layers, each a token mixer (grouped-query, latent or linear
attention) and a feed-forward part (dense or mixture of experts).  Parameter counts follow from the
dimensions alone, so a published count is a test of the importer and never an input.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SparseIndexer:
    """DeepSeek's lightning indexer: scores every key cheaply and keeps the best ``top_k``.

    ``shared`` layers take the choice of an earlier layer and have no indexer of their own.
    """

    heads: int
    head_dim: int
    top_k: int
    shared: bool = False

    def parameters(self, hidden: int, query_rank: int | None) -> int:
        """Query, key and head-weight projections and the key's norm."""
        if self.shared:
            return 0
        count = (query_rank or hidden) * self.heads * self.head_dim
        return count + hidden * (self.head_dim + self.heads) + 2 * self.head_dim


@dataclass(frozen=True)
class GroupedQueryAttention:
    """Softmax attention with ``kv_heads`` shared key-value heads (multi-head when equal).

    ``window`` is the sliding window in tokens, or None for full attention.
    ``output_gate`` doubles the query projection, as in Qwen3-Next.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    output_gate: bool = False
    sinks: bool = False
    value_dim: int | None = None
    """Width of one value head where it differs from the key's; None means ``head_dim``."""
    qk_norm_full: bool = False
    """The query-key norm spans all heads (OLMoE, MiniMax-M2) instead of one."""
    query_rank: int | None = None
    """Queries pass through this many columns first (Step-3, DeepSeek-V4)."""
    borrows_kv: bool = False
    """Keys and values are those of an earlier layer (cross-layer attention of Hunyuan-Large)."""
    key_is_value: bool = False
    """One projection serves as key and value (DeepSeek-V4)."""
    output_rank: int | None = None
    """Each of ``output_groups`` groups of heads passes through this many columns (DeepSeek-V4)."""
    output_groups: int = 1
    compression: int = 0
    """Keys beyond the window are merged, this many into one (DeepSeek-V4); 0 for never."""
    indexer: SparseIndexer | None = None

    def parameters(self, hidden: int) -> int:
        value_dim = self.value_dim or self.head_dim
        query = self.heads * self.head_dim * (2 if self.output_gate else 1)
        key, value = self.kv_heads * self.head_dim, self.kv_heads * value_dim
        if self.borrows_kv:
            key = value = 0
        if self.key_is_value:
            value = 0
        count = hidden * (key + value) + self._query_parameters(hidden, query)
        count += self._output_parameters(hidden, self.heads * value_dim)
        count += (query + key + value) if self.qkv_bias else 0
        count += hidden if self.output_bias else 0
        count += self.heads if self.sinks else 0
        if self.qk_norm:
            spans = (self.heads, self.kv_heads) if self.qk_norm_full else (1, 1)
            count += self.head_dim * sum(spans)
        if self.compression:
            count += _compressor_parameters(hidden, self.head_dim, self.compression)
        if self.indexer is not None:
            count += self.indexer.parameters(hidden, self.query_rank)
        return count

    def _query_parameters(self, hidden: int, columns: int) -> int:
        if self.query_rank is None:
            return hidden * columns
        return hidden * self.query_rank + self.query_rank + self.query_rank * columns

    def _output_parameters(self, hidden: int, rows: int) -> int:
        if self.output_rank is None:
            return rows * hidden
        return rows * self.output_rank + self.output_groups * self.output_rank * hidden


OVERLAPPING_COMPRESSION = 4
"""DeepSeek-V4 merges with overlapping spans, hence two sets of columns, at this ratio only."""


def _compressor_parameters(hidden: int, head_dim: int, ratio: int) -> int:
    """Value and gate projections, position table and norm of DeepSeek-V4's key compressor."""
    columns = head_dim * (2 if ratio == OVERLAPPING_COMPRESSION else 1)
    return 2 * hidden * columns + ratio * columns + head_dim


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 section 2.1)."""

    heads: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    query_rank: int | None = None
    bias: bool = False
    indexer: SparseIndexer | None = None
    output_gate: bool = False
    """A gate as wide as the values multiplies the output (Kimi-K3)."""

    def parameters(self, hidden: int) -> int:
        query_dim = self.nope_dim + self.rope_dim
        if self.query_rank is None:
            count = hidden * self.heads * query_dim
        else:
            count = hidden * self.query_rank + self.query_rank  # down-projection and its norm
            count += self.query_rank * self.heads * query_dim
        count += hidden * (self.kv_rank + self.rope_dim) + self.kv_rank
        count += self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        count += self.heads * self.value_dim * hidden
        if self.bias:
            count += (self.query_rank or 0) + self.kv_rank + self.rope_dim + hidden
        if self.output_gate:
            count += hidden * self.heads * self.value_dim
        if self.indexer is not None:
            count += self.indexer.parameters(hidden, self.query_rank)
        return count


@dataclass(frozen=True)
class LinearAttention:
    """A recurrent mixer with a fixed state: gated delta net, lightning attention, Mamba, KDA.

    It is described by what a cost model needs: the columns of its input projection, the rows of
    its output projection, the other parameters, the FLOPs per token of the recurrence (forward)
    and the elements of state that a sequence carries.
    """

    name: str
    heads: int
    input_columns: int
    output_rows: int
    other_parameters: int
    recurrence_flops: float
    state_elements: int

    def parameters(self, hidden: int) -> int:
        return hidden * (self.input_columns + self.output_rows) + self.other_parameters


Attention = GroupedQueryAttention | LatentAttention | LinearAttention


@dataclass(frozen=True)
class DenseFeedForward:
    """Two matrices (GELU) or, when ``gated``, three (SwiGLU) of width ``width``."""

    width: int
    gated: bool = True
    bias: bool = False

    def parameters(self, hidden: int) -> int:
        count = (3 if self.gated else 2) * hidden * self.width
        if self.bias:
            count += (2 if self.gated else 1) * self.width + hidden
        return count


@dataclass(frozen=True)
class MixtureOfExperts:
    """``top_k`` of ``experts`` routed experts, beside always-active shared and dense parts.

    ``shared_width`` is the summed width of the shared experts; ``dense_width`` that of a dense
    branch in parallel (Snowflake Arctic).  ``shared_gate`` is Qwen's scalar gate on the shared one.
    """

    experts: int
    top_k: int
    width: int
    gated: bool = True
    shared_width: int = 0
    shared_gate: bool = False
    dense_width: int = 0
    expert_bias: bool = False
    router_bias: bool = False
    route_groups: tuple[int, int] | None = None
    """(groups that a token may use, groups of experts) under group-limited routing."""
    latent: int | None = None
    """Routed experts work on a projection of this width (Kimi-K3, Nemotron 3)."""

    def expert_hidden(self, hidden: int) -> int:
        """Width of what a routed expert reads and writes."""
        return self.latent or hidden

    def expert_parameters(self, hidden: int) -> int:
        """Parameters of one routed expert."""
        expert = DenseFeedForward(self.width, self.gated, self.expert_bias)
        return expert.parameters(self.expert_hidden(hidden))

    def always_active_parameters(self, hidden: int) -> int:
        """Router, shared experts, dense branch and the projections to and from the latent."""
        matrices = 3 if self.gated else 2
        count = hidden * self.experts + (self.experts if self.router_bias else 0)
        count += matrices * hidden * (self.shared_width + self.dense_width)
        count += 2 * hidden * (self.latent or 0)
        return count + (hidden if self.shared_gate else 0)

    def parameters(self, hidden: int) -> int:
        routed = self.experts * self.expert_parameters(hidden)
        return routed + self.always_active_parameters(hidden)


FeedForward = DenseFeedForward | MixtureOfExperts


@dataclass(frozen=True)
class Layer:
    """One residual block: a mixer, a feed-forward part (None where a family has none), norms."""

    attention: Attention
    feedforward: FeedForward | None
    norms: int = 2
    """Normalisation vectors of ``hidden`` elements (a LayerNorm with bias counts twice)."""

    def parameters(self, hidden: int) -> int:
        feedforward = self.feedforward.parameters(hidden) if self.feedforward else 0
        return self.attention.parameters(hidden) + feedforward + self.norms * hidden

    def active_parameters(self, hidden: int) -> int:
        """Parameters that one token uses."""
        count = self.parameters(hidden)
        if isinstance(self.feedforward, MixtureOfExperts):
            moe = self.feedforward
            count -= (moe.experts - moe.top_k) * moe.expert_parameters(hidden)
        return count


@dataclass(frozen=True)
class ParameterCount:
    """Parameters, multi-token prediction left out unless named."""

    total: int
    active: int
    """Parameters that one token uses, both embeddings included."""
    active_without_input_embedding: int
    mtp: int
    """Extra parameters of the multi-token-prediction layers."""


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only transformer."""

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    mtp_layers: tuple[Layer, ...] = ()
    tied_embeddings: bool = False
    learned_positions: int = 0
    """Rows of a learned position table (GPT-2, OPT); 0 for rotary or none."""
    final_norms: int = 1
    other_parameters: int = 0
    """Counted, but without work in the layers: embedding norms, vision projectors left aside."""
    max_positions: int | None = None
    quantization: str | None = None
    """What ``quantization_config`` says the published weights are, e.g. ``fp8``."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of one vocabulary table."""
        return self.vocab * self.hidden

    def parameters(self) -> ParameterCount:
        """Count parameters from the dimensions."""
        tables = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        shared = self.learned_positions * self.hidden + self.final_norms * self.hidden
        shared += self.other_parameters
        layers = sum(layer.parameters(self.hidden) for layer in self.layers)
        active = sum(layer.active_parameters(self.hidden) for layer in self.layers)
        # An MTP layer adds a projection of two concatenated vectors, two norms and a final norm.
        mtp = sum(layer.parameters(self.hidden) for layer in self.mtp_layers)
        mtp += len(self.mtp_layers) * (2 * self.hidden**2 + 3 * self.hidden)
        input_only = 0 if self.tied_embeddings else self.embedding_parameters
        return ParameterCount(
            total=layers + tables + shared,
            active=active + tables + shared,
            active_without_input_embedding=active + tables + shared - input_only,
            mtp=mtp,
        )
