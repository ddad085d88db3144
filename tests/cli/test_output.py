import sys
import warnings

import pytest

from awn_keras.cli.output import describe_os_error, told_on_stderr


def test_progress_and_a_warning_go_to_stderr_in_a_line_each(capsys):
    with told_on_stderr("At precision"):
        sys.stdout.write("[1/2] width_050 converted\n")
        warnings.warn("At precision 'int8' it is wrong", UserWarning, stacklevel=1)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "[1/2] width_050 converted",
        "warning: At precision 'int8' it is wrong",
    ]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "a"), "There is no file a."),
        (PermissionError(13, "Permission denied", "a"), "a: Permission denied."),
        (FileNotFoundError("There is no folder a."), "There is no folder a."),
        (OSError(18, "Cross-device link", "a", None, "b"), "'a' -> 'b'"),
    ],
)
def test_errors_of_the_system_are_told_in_words(error, text):
    assert text in describe_os_error(error)


def test_other_warnings_stay_what_they_are():
    with (
        pytest.raises(RuntimeWarning, match="another"),
        told_on_stderr("At precision"),
    ):
        warnings.warn("another", RuntimeWarning, stacklevel=1)


def test_what_is_only_shown_is_shown_after():
    def work():
        with told_on_stderr("At precision"):
            warnings.simplefilter("default")
            warnings.warn("another", RuntimeWarning, stacklevel=1)

    with pytest.warns(RuntimeWarning, match="another"):
        work()
