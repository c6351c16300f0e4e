"""Which checkpoints count, and which are removed; saving and resuming are tested with the engine in integration/."""

from llama_nas.training import checkpoint


def test_checkpoints_of_other_runs_are_removed(tmp_path):
    for name in ("0123456789abcdef", "fedcba9876543210", "mine", "0123456789abcdef0"):
        (tmp_path / name).mkdir()
    checkpoint.remove_stale(tmp_path, "fedcba9876543210")
    assert {path.name for path in tmp_path.iterdir()} == {"fedcba9876543210", "mine", "0123456789abcdef0"}
    checkpoint.remove_stale(tmp_path / "none", "fedcba9876543210")


def test_only_a_named_checkpoint_is_valid(tmp_path):
    """A save cut short leaves a step's folder that `latest` does not name."""
    (tmp_path / "step-00000008").mkdir()
    assert checkpoint.latest_step(tmp_path) == 0
    assert checkpoint.latest_step(tmp_path / "none") == 0
    (tmp_path / "latest").write_text("4")
    assert checkpoint.latest_step(tmp_path) == 4
