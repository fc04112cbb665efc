"""Masks and schedule inside the real ones: torch.compile, DDP, Lightning, the Trainer of Hugging Face, Accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from silo_tune.errors import BadInput
from silo_tune.loops.pruner import Pruner
from silo_tune.loops.silo_lr import SiloLR
from silo_tune.schedules.peaks import rounded
from tests.test_loops import SILO, STEPS, all_zero, batch, begun, fresh, go_on, network, same_bits, sgd, train_on

pytestmark = pytest.mark.slow

CYCLES = 3
PEAKS = [SILO.peak(cycle, [1 - 0.8**m for m in range(CYCLES)]) for cycle in range(CYCLES)]


@pytest.mark.parametrize("first", ["pruner", "compile"])
def test_masks_hold_in_a_compiled_network_under_a_compiled_optimizer(first: str) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    compiled: nn.Module = torch.compile(model)  # type: ignore[assignment]
    if first == "compile":
        train_on(compiled, optimizer, 0)
    pruner = Pruner(compiled, rate=0.5)
    assert set(pruner.masks) == {"0.weight", "3.weight"}
    for cycle in range(CYCLES):
        if cycle:
            pruner.prune()
        for step in range(3):
            train_on(compiled, optimizer, step)
            assert all_zero(pruner)
    step_ = torch.compile(optimizer.step)
    for number in range(3):
        inputs, labels = batch(number)
        optimizer.zero_grad()
        functional.cross_entropy(compiled(inputs), labels).backward()
        step_()
        assert all_zero(pruner)


def ddp(rank: int, place: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{place}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)  # what is drawn must not depend on it
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model)
    pruner = Pruner(wrapped, criterion="random", after_prune="reinit", fresh=fresh)
    optimizer = sgd(model)
    lr = SiloLR(optimizer, SILO, STEPS)
    for step in range(CYCLES * STEPS):
        if lr.done:
            pruner.next_cycle(lr)
        train_on(wrapped, optimizer, 2 * step + rank)
        assert all_zero(pruner)
        lr.step()
    torch.save({"model": model.state_dict(), "masks": pruner.masks}, Path(place) / f"{rank}.pt")


def test_two_processes_prune_and_train_one_network(tmp_path: Path) -> None:
    spawn(ddp, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(mask, other["masks"][name]) for name, mask in one["masks"].items())
    trained = {name for name, _ in network().named_parameters()}  # BatchNorm's statistics are each process's own
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in trained)
    assert sum(int(mask.sum()) for mask in one["masks"].values()) == round(176 * 0.64)


# --- Lightning ---


def examples() -> TensorDataset:
    return TensorDataset(*batch(0))


def test_lightning_prunes_where_a_cycle_is_done_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    from lightning import pytorch as lightning

    from silo_tune.loops.lightning import SiloCallback

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, interval: str, steps: int) -> None:
            super().__init__()
            self.net, self.interval, self.steps = network(), interval, steps
            self.rates: list[tuple[int, float]] = []

        def training_step(self, batch: Any, _: int) -> Any:
            self.rates.append((self.lr.cycle, float(self.lr.get_last_lr()[0])))
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def on_train_batch_end(self, *_: Any) -> None:
            assert all_zero(self.pruner)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1.0, weight_decay=0.1)
            self.lr = SiloLR(optimizer, SILO, self.steps, "constant")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.lr, "interval": self.interval}}

    def fit(epochs: int, interval: str, steps: int, ckpt: Path | None = None, **more: Any) -> tuple[Any, Any]:
        module = Module(interval, steps)
        module.pruner = Pruner(module, after_prune="rewind")
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=[SiloCallback(module.pruner)], default_root_dir=tmp_path, **more,
        )  # fmt: skip
        trainer.fit(module, DataLoader(examples(), batch_size=8), ckpt_path=ckpt)
        return module, trainer

    whole, _ = fit(6, "step", 8)  # 4 batches an epoch
    assert whole.rates == [(cycle, rounded(PEAKS[cycle])) for cycle in range(CYCLES) for _ in range(8)]
    assert whole.pruner.counts.kept == round(176 * 0.64)
    by_epoch, _ = fit(6, "epoch", 2)
    assert by_epoch.rates == whole.rates
    assert same_bits(by_epoch, whole)
    half, _ = fit(6, "step", 4, accumulate_grad_batches=2)
    assert [cycle for cycle, _ in half.rates] == [cycle for cycle, _ in whole.rates]
    for epochs in (3, 4):  # in a cycle, and at the end of one
        _, stopped = fit(epochs, "step", 8)
        stopped.save_checkpoint(tmp_path / "last.ckpt")
        resumed, _ = fit(6, "step", 8, tmp_path / "last.ckpt")
        assert same_bits(resumed, whole)
        assert resumed.pruner.counts == whole.pruner.counts


# --- Hugging Face ---


def test_the_trainer_of_hugging_face_prunes_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    from silo_tune.loops.hf_trainer import FILE, SiloTrainerCallback

    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 50, (32, 6), generator=generator)
    data = [{"input_ids": row, "labels": row} for row in rows]

    class Watch(TrainerCallback):
        def __init__(self, pruner: Pruner, lr: SiloLR) -> None:
            self.pruner, self.lr, self.rates = pruner, lr, list[tuple[int, float]]()

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            self.rates.append((self.lr.cycle, float(self.lr.get_last_lr()[0])))

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            assert all_zero(self.pruner)

    def train(steps: int, place: Path, resume: Path | None = None) -> tuple[Any, Pruner, Watch]:
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2)
        model = GPT2LMHeadModel(config)
        pruner = Pruner(model, layers=["conv1d-hf"], after_prune="rewind")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1)
        lr = SiloLR(optimizer, SILO, 4, "constant")
        arguments = TrainingArguments(
            str(place), max_steps=steps, per_device_train_batch_size=4, gradient_accumulation_steps=2, save_steps=1,
            report_to=[], use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        watch = Watch(pruner, lr)
        callbacks = [SiloTrainerCallback(pruner), watch]
        trainer = Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, lr), callbacks=callbacks)  # type: ignore[arg-type]
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return model, pruner, watch

    whole, pruner, watch = train(12, tmp_path)
    assert watch.rates == [(cycle, rounded(PEAKS[cycle])) for cycle in range(CYCLES) for _ in range(4)]
    total = pruner.counts.total
    assert pruner.counts.kept == round(total * 0.64)
    for step in (3, 4, 6):  # in the dense cycle, at its end, after a prune
        resumed, again, _ = train(12, tmp_path, tmp_path / f"checkpoint-{step}")
        assert same_bits(resumed, whole)
        assert again.counts == pruner.counts
    (tmp_path / "checkpoint-6" / FILE).unlink()
    with pytest.raises(BadInput, match="the checkpoint was written without this callback"):
        train(12, tmp_path, tmp_path / "checkpoint-6")


# --- Accelerate ---


def test_accelerate_saves_and_loads_masks_and_schedule(tmp_path: Path) -> None:
    from accelerate import Accelerator

    def prepared() -> tuple[Any, Any, Any, SiloLR, Pruner]:
        model, optimizer, lr, pruner = begun("rewind")
        accelerator = Accelerator(cpu=True)
        wrapped = accelerator.prepare(model, optimizer)
        accelerator.register_for_checkpointing(lr, pruner)
        return accelerator, *wrapped, lr, pruner

    _, *whole = prepared()
    go_on(18, *whole)
    accelerator, *stopped = prepared()
    go_on(7, *stopped)
    accelerator.save_state(str(tmp_path))
    accelerator, *resumed = prepared()
    accelerator.load_state(str(tmp_path))
    go_on(18, *resumed)
    assert same_bits(resumed[0], whole[0])
    assert all_zero(resumed[3])
    assert resumed[3].counts == whole[3].counts
