"""How the authors' checkpoints hold the projections of queries, keys and values."""

# variant, and which projections the rows of each packed tensor hold, in order
LAYOUTS = {
    "packed": ("dna", {"qqkvv": ["q_pos", "q_neg", "k", "v_pos", "v_neg"]}),
    "split": ("dna", {"qkv": ["q_pos", "k", "v_pos"], "q_neg": ["q_neg"], "v_neg": ["v_neg"]}),
    "packed_shared": ("dna_shared_value", {"qqkv": ["q_pos", "q_neg", "k", "v"]}),
    "split_shared": ("dna_shared_value", {"qkv": ["q_pos", "k", "v"], "q_neg": ["q_neg"]}),
    "softmax": ("softmax", {"qkv": ["q", "k", "v"]}),
}
