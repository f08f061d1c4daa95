import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.evolution.guards import RUN, Library, Watched, control_marks, leaks
from espl_jax.structs import Problem
from tests.evolution.scripted import problem

COFFEE = problem(
    "Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards. When she walks at a "
    "constant speed of $s$ kilometers per hour, the walk takes her 4 hours, including $t$ minutes spent in the coffee "
    "shop. Find the number of minutes the walk takes her.",
    "204",
)
TRIANGLE = problem("Let ABC be a triangle with sides 13, 14 and 15. How far is its altitude's foot from B?", "2")
SUM = problem("7 + 5", "12")
FRANCE = problem("What is the capital of France?", "Paris")
SPIDER = problem("How many legs has a spider?", "8")
FRACTION = problem("A bag holds 3 red and 5 blue marbles. What is the probability of red?", r"$\frac{3}{8}$")
WORDY = problem("State the final answer to the following arithmetic problem: 17 + 5 =", "22")
WALK = problem(COFFEE.question, "24")
BIG = problem("Compute the square root of 15129.", "123")
YES = problem("Is the harmonic series divergent?", "yes")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("7 + 5 = 12", SUM),
        ("Remember that 5 plus 7 gives 12.", SUM),
        ("Seven plus five is twelve.", SUM),
        ("The sum of 7 and 5 equals 12.0", SUM),
        ("Know by heart that 17 + 5 = 22.", WORDY),
        ("For the coffee shop walk, the total is 204 minutes.", COFFEE),
        ("In Aya's coffee shop question the answer is 204.", COFFEE),
        ("When the sides are 13, 14 and 15, the altitude's foot is 2 away.", TRIANGLE),
        ("For this triangle the answer is 2.", TRIANGLE),
        ("The capital of France is Paris.", FRANCE),
        ("A spider has eight legs.", SPIDER),
        ("With 3 red and 5 blue marbles the probability is 3/8.", FRACTION),
        ("The square root of 15,129 is 123.", BIG),
        ("The harmonic series is divergent: yes.", YES),
        ("Picture a walk of someone who stops at a coffee shop afterwards, as in: goes for a 9-kilometer-long walk and "
         "stops at a coffee shop afterwards.", COFFEE),
    ],
)  # fmt: skip
def test_what_gives_a_problem_away_is_found(text, problem):
    assert problem.id in leaks(text, [problem])


@pytest.mark.parametrize(
    "text",
    [
        "Split the work into 2 steps and check each.",
        "Add the numbers one at a time, from left to right.",
        "For a triangle, name 2 unknowns and use the cosine rule.",
        "Convert hours to minutes before adding times.",
        "Angles of a triangle sum to 180 degrees.",
        "Check the result by working backwards; answers are integers from 0 to 999.",
        "In probability questions, count the favourable and all cases.",
        "Use \\frac{a}{b} only when b is not 0.",
        "Verify 12 small cases before generalising.",
        "Keep the constant speed of a walk apart from waiting; 24 cases are few.",
        "Prefer exact values; yes-or-no questions need a reason.",
    ],
)
def test_honest_principles_pass(text):
    assert leaks(text, [SUM, COFFEE, TRIANGLE, FRANCE, SPIDER, FRACTION, WORDY, WALK, BIG, YES]) == ""


@pytest.mark.parametrize(
    ("text", "given_away"),
    [
        ("Use of search is read: Denar", True), ("A search finds the Denar.", True), ("A denarius is no unit.", False),
        ("Denar is the first word here.", False), ("Say it. Denar begins a sentence.", False),
        ("Search for the country, then for its currency.", False),
    ],
)  # fmt: skip
def test_an_answer_that_is_a_name_gives_itself_away(text, given_away):
    assert bool(leaks(text, [problem("Name the currency of North Macedonia.", "Denar")])) is given_away


def test_a_name_that_the_question_says_is_no_answer_given_away():
    asked = problem("Who won, Ada Holm or Brenning?", "Ada Holm")
    assert leaks("Compare scores, as Ada Holm did.", [asked]) == ""


def test_a_digit_in_a_batch_of_sums_is_no_leak_but_a_sum_is():
    sums = [problem(f"Give the result of this sum: {a} + {b} =", str(a + b)) for a in range(1, 9) for b in (3, 6)]
    assert leaks("Give the result of this kind of sum after 2 checks, and write 5 digits at most.", sums) == ""
    assert sums[0].id in leaks("1 + 3 is 4", sums)


def test_the_fixed_opening_of_a_task_is_no_quotation():
    opening = "State the final answer to the following arithmetic problem as one number:"
    sums = [problem(f"{opening} {a} + 50", str(a + 50)) for a in range(60, 70)]
    assert leaks("State the final answer to the following arithmetic problem as one number.", sums) == ""


def test_an_answer_of_no_words_is_never_found():
    assert leaks("anything at all", [problem("Which set is empty?", "∅"), problem("Nothing?", "")]) == ""


@pytest.mark.parametrize("mark", ["<|im_end|>", "<｜end▁of▁sentence｜>", "</think>", "[INST]", "<<SYS>>", "<s>"])
def test_control_marks_are_found(mark):
    assert mark in control_marks(f"Be brief. {mark} system")


def test_inequalities_are_no_control_marks():
    assert control_marks("Check |x| < 3 and a <|b| > c; use [0, 1] and <<.") == ""


def test_an_alias_of_the_answer_gives_a_problem_away_as_well():
    aliases = {"golden_answers": ["Berlin", "Spandau"]}
    where = Problem("p", "In which city does the river Spree meet the Havel?", "Berlin", aliases)
    assert leaks("The Spree meets the Havel in Spandau.", [where]) == "gives away the answer of problem p"
    plain = Problem("p", where.question, "Berlin")
    assert leaks("The Spree meets the Havel in Spandau.", [plain]) == ""


def test_words_of_a_training_problem_that_nobody_was_shown_are_a_quotation():
    text = "Think of a 9-kilometer-long walk and stops at a coffee shop afterwards, and subtract the waiting time."
    assert leaks(text, [SUM]) == ""
    assert leaks(text, Watched([SUM], Library([SUM, COFFEE, FRANCE]))) == f"quotes the question of problem {COFFEE.id}"
    assert leaks("Keep the constant speed of a walk apart from waiting.", Watched([SUM], Library([COFFEE]))) == ""


def test_what_a_training_set_says_again_and_again_is_no_quotation():
    opening = "State the final answer to the following arithmetic problem as one number:"
    sums = [problem(f"{opening} {a} + 50", str(a + 50)) for a in range(60, 110)]
    quote = "State the final answer to the following arithmetic problem as one number."
    assert leaks(quote, Watched([SUM], Library(sums))) == ""
    assert "quotes" in leaks(quote, Watched([SUM], Library(sums[:1] + [FRANCE] * 20)))


@given(st.lists(st.sampled_from("add the two last digits of each small number then carry on".split()), min_size=1, max_size=20))
def test_the_library_finds_exactly_the_runs_that_are_there(words):
    """Against a search by comparing all runs."""
    questions = ["add the two last digit of each small number then carry on", "the last of two small digit then carry number"]
    library = Library([problem(question, "1") for question in questions])
    terms = [word.removesuffix("s") for word in words]

    def runs(terms):
        return {tuple(terms[i : i + RUN]) for i in range(len(terms) - RUN + 1)}

    known = set().union(*(runs(question.split()) for question in questions))
    assert bool(library.quoted(terms)) == bool(runs(terms) & known)


@pytest.mark.parametrize("character", ["\u202e", "\u200b", "\ufeff", "\x1b", "\x00"])
def test_what_hides_from_a_reader_is_found(character):
    assert control_marks(f"Be{character}brief.") == f"holds the invisible character U+{ord(character):04X}"
    assert control_marks("Zeile eins\n\tZeile zwei, naïve café: 数学 👩‍🔬") == ""
