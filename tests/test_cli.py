"""Options of the commands: what they become, and what is said of those that are wrong."""

import dataclasses
import sys

import pytest
import running

from cxr_embeddings import cli
from cxr_embeddings.configs.schema import EmbedConfig, HeadConfig, field

SCRIPTS = sorted((running.REPOSITORY / "scripts").glob("[!_]*.py"))


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a command that takes no config."""

    number: int = field(3, "a number")


FLAT = (Options, "python example", "go on")
FULL = ("--embeddings=e", "--labels=l.csv", "--findings=Edema", "--output=o")


def parsed(*words, schema=HeadConfig, **more):
    """The exit code of a command that takes a config, and that config."""
    configs = []
    code = cli.run(
        lambda *given: configs.append(given) or 0,
        schema, "python example", "nothing was written",
        config_files=True, argv=["x", *words], **more,
    )  # fmt: skip
    return code, (configs[0] if len(configs[0]) > 1 else configs[0][0]) if configs else None


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--config.labels.findings=No Finding,Edema"], "labels.findings", ("No Finding", "Edema")),
        (["--config.sizes", "8,...,all"], "sizes", ("8", "...", "all")),
        (
            ["--embeddings=a,b", "--config.embeddings.path", "c"],
            "embeddings.path",
            ("e", "a,b", "c"),
        ),
        (["--config.training.hidden="], "training.hidden", ()),
        (["--config.training.hidden=(64,)"], "training.hidden", (64,)),
        (["--config.labels.fractions=0.5,0.2,0.3"], "labels.fractions", (0.5, 0.2, 0.3)),
        (["--config.labels.train=0"], "labels.train", ("0",)),
        (["--config=configs/head.py:mlp"], "training.optimizer", "adamw"),
        (["--config.seed=3", "--config", "configs/head.py:mlp"], "seed", 3),
        (["--noconfig.training.shuffle"], "training.shuffle", False),
        (["--config.training.standardise=false"], "training.standardise", False),
        (["-config.training.learning_rate", "1e-2"], "training.learning_rate", 0.01),
        (["--config.seed=1", "--config.seed=2"], "seed", 2),
    ],
)
def test_options_become_settings(words, name, value):
    code, config = parsed(*FULL, *words)
    for part in name.split("."):
        config = getattr(config, part)
    assert (code, config) == (0, value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config.training.hidden=abc"], "--config.training.hidden is 'abc'; expected whole"),
        (["--config.labels.fractions=0.5,O.5"], "expected numbers with commas"),
        (["--config.training.shuffle=maybe"], "'maybe'; expected true or false"),
        (["--config.sizes"], "--config.sizes: expected one argument"),
        (["--config=configs/head.py:x"], "configs/head.py:x is unknown; expected linear, mlp"),
        (["--config=nowhere.py"], "--config is nowhere.py; expected a Python file with"),
        (["--config=configs/mimic.py"], "gives a EmbedConfig; expected a HeadConfig"),
        (["--config.labels.finding=x"], "did you mean --config.labels.findings?"),
        (["--embedings=x"], "there is no option --embedings; did you mean --embeddings?"),
        (["stray"], "'stray' is not an option: options are written --name=value"),
    ],
)
def test_what_is_wrong_is_said(words, said, capsys):
    assert parsed(*words)[0] == 1
    assert capsys.readouterr().err.startswith("error: ")
    parsed(*words)
    assert said in capsys.readouterr().err


def test_missing_options_are_named_by_their_short_names(capsys):
    code, _ = parsed("--labels=l.csv")
    said = capsys.readouterr().err
    assert code == 2 and said.startswith("error: missing required options:\n  --embeddings: ")
    assert "\n  --output: " in said and "  --labels" not in said and "python example" in said


def test_help_shows_an_example_and_groups(capsys):
    assert parsed("--help", "--config=configs/head.py:mlp", *FULL) == (0, None)
    said = capsys.readouterr().out
    assert said.startswith("python example\n\noptions:\n  --config=configs/head.py:mlp\n")
    assert "\n\nembeddings:\n  --embeddings, --config.embeddings.path=e\n" in said
    assert "\ntraining:\n  --config.training.optimizer=adamw\n" in said


def test_options_of_another_library_are_passed_on(capsys):
    _, (config, others) = parsed(*FULL, "--runner=X", "--flag", others=True)
    assert others == ["--runner=X", "--flag"] and config.output.path == "o"
    assert parsed("--config.outptu=x", others=True)[0] == 1
    assert "did you mean --config.output" in capsys.readouterr().err


def test_a_config_file_that_changes_settings_is_told_what_to_write(tmp_path, capsys):
    lines = ["from cxr_embeddings.configs.schema import EmbedConfig", "def get_config():"]
    lines += ["    config = EmbedConfig()", "    config.input.limit = 3"]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    assert parsed(f"--config={tmp_path}/mine.py", schema=EmbedConfig)[0] == 1
    assert "settings are given when a config is made" in capsys.readouterr().err


def test_errors_are_sentences_and_the_process_stays_as_it_was(capsys):
    before = sys.stdout.write

    def fails(config):
        print("\x1b[31m")
        raise FileNotFoundError(2, "No such file", "x\x1b.csv")

    assert cli.run(fails, *FLAT, argv=["x"]) == 1
    said = capsys.readouterr()
    assert said.out == "\\x1b[31m\n" and said.err == "error: No such file: x\\x1b.csv\n"
    assert sys.stdout.write == before
    print("\x1b[31m")
    assert capsys.readouterr().out == "\x1b[31m\n"

    def stopped(config):
        raise KeyboardInterrupt

    assert cli.run(stopped, *FLAT, argv=["x"]) == 1
    assert capsys.readouterr().err == "\nstopped: go on\n"


def test_an_error_can_be_followed_to_its_place(capsys):
    def fails(config):
        raise ValueError("no")

    assert cli.run(fails, *FLAT, argv=["x", "--verbosity=1"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "error: no\n" in said
    assert cli.run(fails, *FLAT, argv=["x"]) == 1
    assert capsys.readouterr().err == "error: no\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_command_is_a_page_and_shows_an_example_and_its_options(script):
    assert len(script.read_text().splitlines()) <= 80
    said = running.call(script.stem, "--help")
    assert said.returncode == 0 and not said.stderr
    example, _, rest = said.stdout.partition("\n\noptions:\n")
    typed, meant = ("weigths", "weights") if script.stem == "serve" else ("outptu", "output")
    assert f"python scripts/{script.name} --" in example and f"  --{meant}" in rest
    wrong = running.call(script.stem, f"--{typed}=x")
    assert wrong.returncode == 1
    assert wrong.stderr == f"error: there is no option --{typed}; did you mean --{meant}?\n"
