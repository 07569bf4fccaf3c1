"""What Ray finds in its environment, each in a process of its own because Ray reads some of it while it is imported."""

import os
import subprocess
import sys


def outcome(program: str, **environment: str) -> str:
    """What a program prints that is run with nothing said about authentication but what is given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=clean | environment, timeout=60
    )
    return done.stdout.strip()


PREPARE = "import os; from fedphd_ray.runtime.ray_environment import prepare_environment as p; p(); e = os.environ; "


def test_a_session_of_its_own_has_a_token_that_is_never_the_same() -> None:
    program = PREPARE + "print(e['RAY_AUTH_MODE'], e['RAY_AUTH_TOKEN'])"
    first, second = outcome(program).split(), outcome(program).split()
    assert first[0] == second[0] == "token"
    assert len(first[1]) == 64
    assert first[1] != second[1]


def test_what_the_user_says_is_kept() -> None:
    assert outcome(PREPARE + "print(e['RAY_AUTH_MODE'], 'RAY_AUTH_TOKEN' in e)", RAY_AUTH_MODE="disabled") == "disabled False"


def test_a_cluster_that_says_nothing_has_no_token() -> None:
    assert outcome(PREPARE + "print(e['RAY_AUTH_MODE'])", RAY_ADDRESS="127.0.0.1:6379") == "disabled"


def test_ray_imported_too_early_is_refused_with_what_to_do() -> None:
    program = (
        "import ray\n"
        "from fedphd_ray.errors import UserError\n"
        "from fedphd_ray.runtime.ray_environment import prepare_environment\n"
        "try:\n    prepare_environment()\n"
        "except UserError as error:\n    print(error)\n"
    )
    message = outcome(program)
    assert message.startswith("RAY_AUTH_MODE")
    assert "before `import ray`" in message
    assert outcome(program, RAY_AUTH_MODE="disabled") == ""
