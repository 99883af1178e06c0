"""``colm_run.json``: what a trainer writes of its run when training begins and when it ends."""

import json
import logging

import pytest
from transformers import TrainerCallback

from colm.coreset.mixture import small_sources
from colm.data import source_counts
from colm.run_record import RUN_FILE, read_record

SAVING = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}


class At(TrainerCallback):
    """Calls a function before a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


def test_a_run_is_written_down_at_its_beginning_and_at_its_end(make_trainer, dataset, tmp_path):
    trainer = make_trainer(dataset, **SAVING, hub_token="hf_secret")
    folder, seen = tmp_path / "run", []
    trainer.add_callback(At(0, lambda: seen.append(read_record(folder))))
    trainer.train()
    (first,), last = seen, read_record(folder)
    assert (first.state, first.step, first.ended) == ("running", 0, None)
    assert (last.state, last.step) == ("ended", 2)
    assert last.begun == first.begun <= last.ended
    assert last.command == "python"
    assert last.selection["selector"] == "colm"
    assert last.subspaces == {}
    assert last.sources == source_counts(dataset, "source")
    assert set(last.small_sources) == small_sources(last.sources)
    assert (last.drawn, last.kept) == trainer.candidates_and_kept
    assert last.options["learning_rate"] == trainer.args.learning_rate
    assert last.options["max_steps"] == 2
    assert last.seeds["seed"] == trainer.args.seed
    assert {"python", "torch", "trl"} <= set(last.versions)
    assert last.model["name"]
    assert last.data["training_examples"] == len(dataset)
    assert "secret" not in (folder / RUN_FILE).read_text()


@pytest.mark.parametrize("options", [{"candidate_ratio": 1}, {}])
def test_the_share_of_stored_losses_is_said_where_they_are_stored(make_trainer, dataset, options):
    stored = make_trainer(dataset, stored_losses="hard", stored_share=0.25, **options)
    assert stored.run_record().selection["stored_share"] == 0.25
    assert "stored_share" not in make_trainer(dataset, **options).run_record().selection


@pytest.mark.slow
def test_what_stopped_is_said_to_have_stopped_and_goes_on(make_trainer, dataset, tmp_path):
    def fail():
        raise KeyboardInterrupt

    trainer = make_trainer(dataset, **SAVING)
    trainer.add_callback(At(1, fail))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    stopped = read_record(tmp_path / "run")
    assert (stopped.state, stopped.step) == ("stopped", 1)
    assert stopped.resumed == []
    make_trainer(dataset, **SAVING).train(resume_from_checkpoint=True)
    ended = read_record(tmp_path / "run")
    assert (ended.state, ended.step, ended.begun) == ("ended", 2, stopped.begun)
    assert len(ended.resumed) == 1


def test_a_refused_run_leaves_the_record_of_the_one_before(make_trainer, dataset, tmp_path):
    make_trainer(dataset, **SAVING).train()
    before = (tmp_path / "run" / RUN_FILE).read_bytes()
    with pytest.raises(ValueError, match="seed"):
        make_trainer(dataset, **SAVING, seed=5).train(resume_from_checkpoint=True)
    assert (tmp_path / "run" / RUN_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "acting"),
    [
        ({"candidate_ratio": 1}, {"candidate_ratio"}),
        ({"selector": "none"}, {"candidate_ratio", "selector"}),
        ({"selector": "random"}, {"candidate_ratio", "selector", "small_sources"}),
    ],
)
def test_options_that_do_nothing_are_not_written(make_trainer, dataset, options, acting):
    record = make_trainer(dataset, **options).run_record()
    assert acting <= set(record.selection)
    assert ("small_sources" in record.selection) == ("small_sources" in acting)
    assert record.kept == record.drawn or "small_sources" in acting
    json.dumps(record.selection)


def test_nothing_is_written_where_nothing_is_saved(make_trainer, dataset, tmp_path):
    make_trainer(dataset, max_steps=1, save_strategy="no").train()
    assert not (tmp_path / "run" / RUN_FILE).exists()


def test_a_record_that_cannot_be_written_costs_no_training(make_trainer, dataset, tmp_path, caplog):
    (tmp_path / "run" / f"{RUN_FILE}.unfinished").mkdir(parents=True)
    trainer = make_trainer(dataset, **SAVING)
    with caplog.at_level(logging.WARNING, "colm"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert "not written down" in caplog.text


def test_options_of_subspaces_are_written_where_there_are_some(make_trainer, dataset):
    record = make_trainer(dataset, subspace_rank=2).run_record()
    assert record.subspaces["subspace_rank"] == 2
    assert record.selection["selector"] == "colm"
