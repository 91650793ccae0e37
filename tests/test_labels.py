"""What a person writes for a class, and the index it names; what cannot be named is an error that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from coda_cli.checkpoints.labels import resolve_class
from coda_cli.checkpoints.manifest import Checkpoint, KnownCheckpoint, Preprocessing
from coda_cli.checkpoints.published_descriptions import published_checkpoint
from coda_cli.errors import ExitCode, UsageError

CIFAR10 = published_checkpoint("9L-S-CoDA-SQ-1000")
IMAGENET = published_checkpoint("9L-L-CoDA-SQ-100000")


def checkpoint(*classes: str, synonyms: tuple[tuple[str, ...], ...] | None = None, name: str = "net") -> Checkpoint:
    return Checkpoint(
        name=name,
        architecture="coda_net",
        arguments={},
        classes=classes,
        synonyms=synonyms,
        preprocessing=Preprocessing(resize=32, crop=32),
    )


def refusal(text: str, network: Checkpoint, others: dict[str, KnownCheckpoint] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        resolve_class(text, network, others)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("3", 3),
        (" 3 ", 3),
        ("cat", 3),
        ("Cat", 3),
        ("CAT", 3),
        ("name:cat", 3),
        ("air", 0),  # unique beginning
        ("0", 0),
        ("9", 9),
    ],
)
def test_cifar_classes_by_index_and_name(text: str, index: int) -> None:
    assert resolve_class(text, CIFAR10) == index


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("n01443537", 1),  # WordNet id
        ("N01443537", 1),
        ("great white shark", 2),
        ("great_white_shark", 2),
        ("great-white-shark", 2),  # as in the names of files
        ("Great  White\tShark", 2),
        ("  great white shark ", 2),
        ("white shark", 2),  # synonym
        ("Carcharodon carcharias", 2),
        ("carassius", 1),  # unique beginning of a synonym
        ("galeocerdo", 3),
        ("cuvieri", 3),  # unique whole word
        ("84", 84),
    ],
)
def test_imagenet_classes_by_wordnet_id_name_and_synonym(text: str, index: int) -> None:
    assert resolve_class(text, IMAGENET) == index


def test_every_name_wordnet_id_and_unambiguous_synonym_names_its_own_class() -> None:
    for network in (CIFAR10, IMAGENET):
        for index, name in enumerate(network.classes):
            assert resolve_class(name, network) == index
    for index, wnid in enumerate(IMAGENET.wnids or ()):
        assert resolve_class(wnid, IMAGENET) == index
    every = [synonym.casefold() for group in IMAGENET.synonyms or () for synonym in group]
    for index, group in enumerate(IMAGENET.synonyms or ()):
        for synonym in group:
            if every.count(synonym.casefold()) == 1 and synonym not in IMAGENET.classes:
                assert resolve_class(synonym, IMAGENET) == index


# ---- the order of the tests ------------------------------------------------------------------------------------------


def test_an_exact_name_beats_a_synonym_a_beginning_and_a_word() -> None:
    network = checkpoint("crane fly", "crane", "heron", "big crane", synonyms=((), (), ("crane",), ()))
    assert resolve_class("crane", network) == 1


def test_a_synonym_beats_a_beginning_and_a_word() -> None:
    network = checkpoint("crane fly", "heron", "big crane", synonyms=((), ("crane",), ()))
    assert resolve_class("crane", network) == 1


def test_a_beginning_beats_a_word() -> None:
    network = checkpoint("big crane", "crane fly")
    assert resolve_class("crane", network) == 1


def test_whole_words_are_found_and_parts_of_words_are_not() -> None:
    network = checkpoint("golden retriever", "hovercraft")
    assert resolve_class("retriever", network) == 0
    refusal("craft", network)


def test_an_index_beats_a_name_and_name_colon_asks_for_the_name() -> None:
    digits = checkpoint("7", "8", "9", "0", "1", "2", "3", "4", "5", "6")
    assert resolve_class("7", digits) == 7
    assert resolve_class("name:7", digits) == 0
    assert resolve_class("name: 7", digits) == 0


def test_characters_of_regular_expressions_mean_themselves() -> None:
    network = checkpoint("old c++ book", "vitamin (c)", "cat")
    assert resolve_class("c++", network) == 0
    assert resolve_class("(c)", network) == 1
    assert "has no class '.*'" in refusal(".*", network)
    assert "has no class 'c.t'" in refusal("c.t", network)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        checkpoint("crane", "crane", "dog"),
        checkpoint("bird", "machine", "dog", synonyms=(("crane",), ("crane",), ())),
        checkpoint("crane fly", "crane truck", "dog"),
        checkpoint("big crane", "small crane", "dog"),
    ],
    ids=["names", "synonyms", "beginnings", "words"],
)
def test_what_fits_two_classes_at_any_step_lists_both(network: Checkpoint) -> None:
    message = refusal("crane", network)
    assert "fits 2 classes" in message
    synonym = ", crane" if network.synonyms else ""
    for index in (0, 1):
        assert f"{index} ({network.classes[index]}{synonym})" in message
    assert "use an index" in message
    assert "dog" not in message


def test_the_synonym_that_fits_is_named() -> None:
    network = checkpoint("church", "parachute", "dog", synonyms=((), ("chute",), ()))
    assert "0 (church), 1 (parachute, chute); use an index" in refusal("ch", network)


def test_a_sign_is_no_hyphen_and_an_exact_name_comes_first() -> None:
    refusal("name:-1", checkpoint("0", "1"))
    assert resolve_class("name:-1", checkpoint("-1", "0", "1")) == 0
    assert resolve_class("name:1", checkpoint("-1", "0", "1")) == 2
    both = checkpoint("t-shirt", "t shirt")
    assert [resolve_class(name, both) for name in both.classes] == [0, 1]


def test_several_names_with_commas_are_told_how() -> None:
    assert "did you mean 'tench'" in refusal("tench, Tinca tinca", checkpoint("tench", "dog"))
    assert "by repeating the option" in refusal("cat,dog", CIFAR10)
    assert "did you mean 'crane, bird' or 'crane, birds'?" in refusal(
        "crane, brid", checkpoint("crane, bird", "crane, birds")
    )
    assert "its classes are: airplane, " in refusal("zebra", CIFAR10)


def test_a_synonym_that_fits_twice_within_one_class_is_not_ambiguous() -> None:
    assert resolve_class("white", checkpoint("shark", "dog", synonyms=(("white shark", "white death"), ()))) == 0


def test_many_candidates_are_shortened() -> None:
    message = refusal("dog", checkpoint(*(f"dog {i}" for i in range(20))))
    assert "fits 20 classes" in message
    assert "and 12 more" in message


def test_an_ambiguous_exact_synonym_does_not_fall_through_to_a_later_test() -> None:
    network = checkpoint("bird", "machine", "crane fly", synonyms=(("crane",), ("crane",), ()))
    assert "fits 2 classes" in refusal("crane", network)


@pytest.mark.parametrize("text", ["10", "-1", "99999999999999999999"])
def test_an_index_out_of_range_names_the_range(text: str) -> None:
    assert refusal(text, CIFAR10) == f"class {text} is out of range: '9L-S-CoDA-SQ-1000' has classes 0..9"


def test_a_slip_is_suggested_and_never_corrected() -> None:
    assert refusal("froog", CIFAR10) == "'9L-S-CoDA-SQ-1000' has no class 'froog'; did you mean 'frog'?"


def test_a_slip_in_a_synonym_suggests_the_class() -> None:
    assert "did you mean 'great white shark'" in refusal("carcharadon carcharias", IMAGENET)


def test_a_small_network_lists_its_classes() -> None:
    assert refusal("zebra", CIFAR10).endswith(f"its classes are: {', '.join(CIFAR10.classes)}")


def test_a_large_network_says_how_to_list_them() -> None:
    assert refusal("xylophonist", IMAGENET).endswith("coda models show 9L-L-CoDA-SQ-100000 lists its 100 classes")


@pytest.mark.parametrize("text", ["", "  ", "_", "name:"])
def test_nothing_names_no_class(text: str) -> None:
    assert "has no class" in refusal(text, CIFAR10)


def test_a_wordnet_id_means_nothing_to_a_network_without_them() -> None:
    assert "has no class 'n01443537'" in refusal("n01443537", CIFAR10)


# ---- other networks --------------------------------------------------------------------------------------------------


def others(tmp_path: Path, *, here: bool) -> dict[str, KnownCheckpoint]:
    path = tmp_path / "file"
    if here:
        path.touch()
    return {
        CIFAR10.name: KnownCheckpoint(checkpoint=CIFAR10, path=path),
        "ambiguous": KnownCheckpoint(checkpoint=checkpoint("peacock a", "peacock b", name="ambiguous"), path=path),
        IMAGENET.name: KnownCheckpoint(checkpoint=IMAGENET, path=path),
    }


def test_another_network_that_knows_the_class_is_named(tmp_path: Path) -> None:
    message = refusal("peacock", CIFAR10, others(tmp_path, here=True))
    assert message.endswith("'9L-L-CoDA-SQ-100000' has: add --model 9L-L-CoDA-SQ-100000")


def test_another_network_that_is_not_here_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    message = refusal("peacock", CIFAR10, others(tmp_path, here=False))
    assert message.endswith("--model 9L-L-CoDA-SQ-100000 (get it with: coda models pull 9L-L-CoDA-SQ-100000)")


def test_a_class_that_another_network_has_is_more_than_a_slip(tmp_path: Path) -> None:
    message = refusal("goose", CIFAR10, others(tmp_path, here=True))
    assert message.endswith("did you mean 'horse'? '9L-L-CoDA-SQ-100000' has: add --model 9L-L-CoDA-SQ-100000")


def test_an_index_out_of_range_does_not_ask_other_networks(tmp_path: Path) -> None:
    assert "--model" not in refusal("84", CIFAR10, others(tmp_path, here=True))
