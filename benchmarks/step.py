"""Where a QuRe training step from the feature store spends its time, and what would speed it up.

    python benchmarks/step.py            (the Q-Former as published, over ViT-L's features)
    python benchmarks/step.py --reduced  (the mini model's)

Steps are the training loop's own, on random features and weights. Rows "step: ..." are shares of
one step; rows "with ..." are the time of a step less or more that each change would make.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from common import ROOT, clocks, make_up_training, parser, seconds, write_rows

from qure_lib.features.model_folder import load_model
from qure_lib.method.config import MiningConfig, ModelConfig, TrainConfig
from qure_lib.train.loop import Loop
from qure_lib.train.progress import set_seed
from qure_lib.train.run_folder import RunFolder


def make_loop(config: ModelConfig, steps: int, runs: Path, **settings: object) -> Loop:
    """A training loop whose epoch has so many steps of 32."""
    retriever, data = make_up_training(config, 32 * steps, 32 * steps)
    recipe = TrainConfig(2, mining=MiningConfig("all_corpus"), n_def=2, **settings)
    return Loop(recipe, retriever, data, RunFolder(runs, "step", recipe, {}))


def main() -> None:
    options = parser(__doc__).parse_args()
    published = replace(ModelConfig(), vision_layers=1)  # its features are stored, not computed
    mini = load_model(ROOT / "data_prep" / "mini_stage1").config
    config = mini if options.reduced else published
    steps, size = (20, "mini model") if options.reduced else (1, "published Q-Former, ViT-L")
    size += ", batch 32"
    with tempfile.TemporaryDirectory() as folder:
        loop = make_loop(config, steps, Path(folder))
        loop.take_steps(0, set_seed(0))
        start = time.perf_counter()
        with clocks() as spent:
            loop.take_steps(0, set_seed(0))
        whole = time.perf_counter() - start
        rows = [{"what": "step", "value": 1000 * whole / steps, "unit": "ms"}]
        spent["everything else"] = whole - sum(spent.values())
        for part, taken in spent.items():
            rows.append({"what": f"step: {part}", "value": 100 * taken / whole, "unit": "%"})
        qformer = spent["Q-Former forward"] + spent["backward"]
        rows.append({"what": "step: Q-Former in all", "value": 100 * qformer / whole, "unit": "%"})
        rows += compare(loop, steps)
    write_rows([row | {"size": size} for row in rows], options.out, "step")


def compare(loop: Loop, steps: int) -> list[dict]:
    """A step's time without a change and with each of them, in one run."""
    parameters, group = loop.parameters.values(), loop.optimizer.param_groups[0]
    chosen = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
    plain = seconds(lambda: loop.take_steps(0, set_seed(0)), 2)

    def row(what: str) -> dict:
        ratio = plain / seconds(lambda: loop.take_steps(0, set_seed(0)), 2)
        return {"what": f"with {what}: times as fast", "value": ratio, "unit": "ratio"}

    rows = []
    before, loop.optimizer = loop.optimizer, torch.optim.AdamW(parameters, fused=True, **chosen)
    rows.append(row("fused AdamW"))
    loop.optimizer = before
    with torch.autocast(loop.retriever.device.type, torch.bfloat16):
        rows.append(row("bfloat16"))
    encode_image, encode_query = loop.model.encode_image, loop.model.encode_query
    loop.model.encode_image = torch.compile(encode_image, dynamic=True)
    loop.model.encode_query = torch.compile(encode_query, dynamic=True)
    rows.append(row("torch.compile"))
    return rows


if __name__ == "__main__":
    main()
