"""Command lines of version 0.1.0.dev0, with every option it had in every spelling: they go on meaning the same."""

import shlex
from pathlib import Path

import pytest

from dna_hf.cli.dispatch import build_parser, spelled


READING = (
    "--fps 0.5 --max-frames 8 --max-visual-tokens 64 --max-new-tokens 9 --dtype bfloat16 --device cpu --revision r"
)
READ = {"fps": 0.5, "max_frames": 8, "max_visual_tokens": 64, "max_new_tokens": 9, "dtype": "bfloat16"}
READ |= {"device": "cpu", "revision": "r"}
# what was written -> what it means, by the name of the option in Python
COMMANDS = {
    "train a.yaml --resume": {"config": "a.yaml", "resume": True},
    "evaluate x --revision r --split train --batch-size 8 --device cpu --output e/a.json --confusion c.csv --record "
    "--slices size": {
        **{"checkpoint": "x", "revision": "r", "split": "train", "batch_size": 8, "device": "cpu"},
        **{"output": Path("e/a.json"), "confusion": Path("c.csv"), "record": True, "slices": "size"},
    },
    "predict x a.png b.png --revision r --top-k 3 --batch-size 8 --device cpu": {
        **{"checkpoint": "x", "files": ["a.png", "b.png"], "revision": "r", "top_k": 3, "batch_size": 8},
        "device": "cpu",
    },
    "answer x q.json --videos v --format egoschema --views 'ego, exo' --answers a.json "
    f"--prompt '{{question}} {{choices}}' {READING} --batch-size 2 "
    "--second-chance likelihood --predictions p.jsonl --resume --on-error skip "
    "--left-out l.jsonl --table t.csv --export e.json --output o.json": {
        **{"checkpoint": "x", "questions": "q.json", "videos": "v", "format": "egoschema", "views": ["ego", "exo"]},
        **{"answers": "a.json", "prompt": "{question} {choices}", **READ, "batch_size": 2, "resume": True},
        **{"second_chance": "likelihood", "predictions": Path("p.jsonl"), "on_error": "skip"},
        **{"left_out": Path("l.jsonl"), "table": Path("t.csv"), "export": Path("e.json"), "output": Path("o.json")},
    },
    "answer x q.json --max_frames 8 --max_visual_tokens 64 --max_new_tokens 9 --batch_size 2 "
    "--second_chance likelihood --on_error skip --left_out l.jsonl": {
        **{"max_frames": 8, "max_visual_tokens": 64, "max_new_tokens": 9, "batch_size": 2},
        **{"second_chance": "likelihood", "on_error": "skip", "left_out": Path("l.jsonl")},
    },
    f"chat x --video a.mp4 --video b.mp4 --image c.png --question 'What is it?' {READING} --temperature 0.7 "
    "--seed 3": {
        **{"checkpoint": "x", "video": ["a.mp4", "b.mp4"], "image": ["c.png"], "question": "What is it?"},
        **{**READ, "temperature": 0.7, "seed": 3},
    },
    "chat x --max_frames 8 --max_visual_tokens 64 --max_new_tokens 9": {
        **{"max_frames": 8, "max_visual_tokens": 64, "max_new_tokens": 9}
    },
    "distractors x y --split train --grid 3 --max-tiles 4 --target-position center --seed 3 --batch-size 8 "
    "--device cpu --output_dir o": {
        **{"checkpoints": ["x", "y"], "split": "train", "grid": 3, "max_tiles": 4, "target_position": "center"},
        **{"seed": 3, "batch_size": 8, "device": "cpu", "output_dir": Path("o")},
    },
    "distractors x --output-dir o": {"output_dir": Path("o")},
    "compare a.yaml --variants 'dna, cog' --seeds 3,4 --param-matched --output_dir o": {
        **{"config": "a.yaml", "variants": ["dna", "cog"], "seeds": [3, 4], "param_matched": True},
        "output_dir": Path("o"),
    },
    "compare a.yaml --output-dir o": {"output_dir": Path("o")},
    "benchmark data a.yaml --seconds 3 --output o.json": {
        **{"config": "a.yaml", "seconds": 3, "output": Path("o.json")}
    },
    "convert x o --from vit --attention-variant cog --negative-init zero --warm-scale 0.01 --image-size 32 "
    "--num-attention-heads 4 --negative-sign -1 --interaction-layers 0,2 --base-model b --no-visual-tokens "
    "--no-visual-probes --num-probes 4 --num-frames 8 --attention-type space_only --image-processor p --dtype float16 "
    "--revision r --seed 3 --dry-run": {
        **{"source": "x", "output": Path("o"), "family": "vit", "attention_variant": "cog", "negative_init": "zero"},
        **{"warm_scale": 0.01, "image_size": 32, "num_attention_heads": 4, "negative_sign": "-1"},
        **{"interaction_layers": [0, 2], "base_model": "b", "no_visual_tokens": True, "no_visual_probes": True},
        **{"num_probes": 4, "num_frames": 8, "attention_type": "space_only", "image_processor": "p"},
        **{"dtype": "float16", "revision": "r", "seed": 3, "dry_run": True},
    },
    "convert x o --warm-scale 0": {"warm_scale": 0.0},
    "convert x o --warm-scale -0.01 --negative-sign +1": {"warm_scale": -0.01, "negative_sign": "+1"},
    "merge x --output o --base b --dtype float16": {
        **{"adapter": Path("x"), "output_dir": Path("o"), "base": "b", "dtype": "float16"}
    },
    "publish x user/name --private --revision b --licence mit --max-shard-size 1GB --dry-run": {
        **{"checkpoint": "x", "repo_id": "user/name", "private": True, "revision": "b", "licence": "mit"},
        **{"max_shard_size": "1GB", "dry_run": True},
    },
    "publish x user/name --license mit": {"licence": "mit"},
    "visualize x a.png --output o --compare y z --kind rollout --layer -2 --head all --query 1,2 --axis time "
    "--show combined --target cat --question 'What is it?' --colours orange-purple --opacity 1 --format svg "
    "--animation mp4 --device cpu --revision r": {
        **{"checkpoint": "x", "files": ["a.png"], "output_dir": Path("o"), "compare": ["y", "z"], "kind": "rollout"},
        **{"layer": -2, "head": "all", "query": (1, 2), "axis": "time", "show": "combined", "target": "cat"},
        **{"question": "What is it?", "colours": "orange-purple", "opacity": 1.0, "format": "svg"},
        **{"animation": "mp4", "device": "cpu", "revision": "r"},
    },
    "visualize x a.png -o o --colors orange-purple": {"output_dir": Path("o"), "colours": "orange-purple"},
    "analyze x --compare y z --split train --output_dir o --k 4 --epsilon 0.3 --against all --pictures 0 "
    "--no-untrained --batch-size 8 --device cpu --revision r --colours orange-purple": {
        **{"checkpoint": "x", "compare": ["y", "z"], "split": "train", "output_dir": Path("o"), "k": 4},
        **{"epsilon": 0.3, "against": "all", "pictures": 0, "no_untrained": True, "batch_size": 8, "device": "cpu"},
        **{"revision": "r", "colours": "orange-purple"},
    },
    "analyze x --output-dir o --colors red-blue": {"output_dir": Path("o"), "colours": "red-blue"},
    "analyze x -o o": {"output_dir": Path("o")},
    "demo x --compare y --host 0.0.0.0 --port 8000 --device cpu --revision r --export-space s": {
        **{"checkpoint": "x", "compare": ["y"], "host": "0.0.0.0", "port": 8000, "device": "cpu", "revision": "r"},
        "export_space": Path("s"),
    },
}
# what was meant without an option
DEFAULTS = {
    "evaluate x": {"split": "test", "batch_size": None, "record": False, "output": None},
    "predict x a.png": {"top_k": 5, "batch_size": 32},
    "answer x q.json": {"max_new_tokens": 128, "batch_size": 1, "on_error": "raise", "second_chance": None},
    "chat x": {"max_new_tokens": 512, "temperature": None, "video": [], "image": [], "question": None},
    "distractors x --output_dir o": {
        **{"split": "test", "grid": 2, "max_tiles": None, "target_position": "random", "seed": 0, "batch_size": 64}
    },
    "compare a.yaml": {"variants": ["softmax", "dna"], "seeds": [0, 1, 2], "param_matched": False, "output_dir": None},
    "benchmark data a.yaml": {"seconds": 10, "output": None},
    "convert x o": {"family": None, "attention_variant": None, "negative_init": None, "warm_scale": None, "seed": 0},
    "publish x user/name": {"private": False, "revision": None, "max_shard_size": "5GB", "dry_run": False},
    "visualize x a.png --output o": {
        **{"kind": "attention", "layer": -1, "head": "mean", "query": "class", "axis": None, "show": None},
        **{"colours": "red-blue", "opacity": 0.85, "format": "png", "animation": "gif", "compare": []},
    },
    "analyze x -o o": {
        **{"split": None, "k": None, "epsilon": 0.5, "against": "top_k", "pictures": 12, "no_untrained": False},
        **{"batch_size": 16, "colours": "red-blue", "compare": []},
    },
    "demo x": {"host": "127.0.0.1", "port": None, "compare": [], "export_space": None},
}


@pytest.mark.parametrize("command", [*COMMANDS, *(f"{command} " for command in DEFAULTS)])
def test_means_what_it_meant(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    arguments, rest = build_parser().parse_known_args(spelled(shlex.split(command)))
    expected = (COMMANDS | {f"{command} ": meant for command, meant in DEFAULTS.items()})[command]
    assert rest == [] and {name: getattr(arguments, name) for name in expected} == expected
