"""What the schema decides, says, encodes and refuses."""

import json
import re

import numpy as np
import pytest
import torch

from girsanov.datasets import Raw, Schema, array_raw, from_array
from girsanov.types import InputError
from tests.seeds import rng

N = 200


def table(name="data", *, named=True, **columns):
    arrays = tuple(
        np.array(column, dtype=object) if isinstance(column[0], str | None) else np.asarray(column)
        for column in columns.values()
    )
    return Raw(name, "table", names=tuple(columns), named=named, columns=arrays)


def people(n=N, seed=0):
    draw = rng(seed)
    height = draw.normal(1.7, 0.1, n)
    return {
        "height": height,
        "age": draw.integers(20, 60, n),
        "planet": np.full(n, 3.0),
        "feet": 3.281 * height - 0.5,
        "city": [("Rome", "Oslo", "Lima")[i] for i in draw.integers(0, 3, n)],
        "age again": None,
    }


def example(n=N, seed=0, **changes):
    columns = people(n, seed)
    columns["age again"] = columns["age"].copy()
    return table(**(columns | changes))


def test_roles_steps_and_sentences():
    raw = example()
    schema = Schema.infer(raw, categorical=True)
    assert schema.columns == ("height", "age", "city=Lima", "city=Oslo", "city=Rome")
    assert schema.bin_width.tolist() == [0, 1, 1, 1, 1]
    assert schema.offset.tolist() == [0, 0, 0, 0, 0]
    assert schema.bin_width.dtype == torch.float64
    assert schema.discrete
    notes = "\n".join(schema.notes)
    for pattern in (
        r"constant: planet \(always 3\.0\)",
        r"Dropped 'feet': it is -0\.5 \+ 3\.281 \* 'height'",
        r"Dropped 'age again': it is the same as 'age'",
        r"lattice: age \(step 1\)",
        r"One-hot encoded: city \(3 levels\)",
    ):
        assert re.search(pattern, notes), pattern


def test_encoding():
    raw = example()
    x = Schema.infer(raw, categorical=True).encode(raw)
    assert x.dtype == torch.float64
    assert x.shape == (N, 5)
    np.testing.assert_array_equal(x[:, 0], raw.columns[0])
    np.testing.assert_array_equal(x[:, 1], raw.columns[1])
    assert x[:, 2:].sum(1).eq(1).all()
    assert [("Lima", "Oslo", "Rome")[i] for i in x[:, 2:].argmax(1)] == raw.columns[4].tolist()


def test_json_round_trip_encodes_the_same():
    raw = example()
    schema = Schema.infer(raw, categorical=True)
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    assert again.encode(raw).equal(schema.encode(raw))


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 0},
        {"rules": [{"rule": "magic", "name": "a"}]},
        {"rules": [{"rule": "numeric"}]},
        {"rules": [3]},
        {"event_shape": "ab"},
        {"event_shape": None},
    ],
)
def test_damaged_json(damage):
    record = Schema.infer(example(), categorical=True).to_json() | damage
    with pytest.raises(InputError, match="the schema"):
        Schema.from_json(record)


def test_decode_gives_back_the_table():
    raw = example()
    schema = Schema.infer(raw, categorical=True, drop=["age again"])
    back = schema.decode(schema.encode(raw))
    assert back.names == raw.names[:-1]
    for name, column in zip(back.names, back.columns, strict=True):
        original = raw.columns[raw.names.index(name)]
        if original.dtype == object:
            assert column.tolist() == original.tolist()
        else:
            np.testing.assert_allclose(column, original, rtol=1e-12)
    assert schema.encode(back).equal(schema.encode(raw))


def test_decode_moves_samples_onto_the_lattice():
    schema = Schema.infer(example(), categorical=True)
    noisy = schema.encode(example()) + 0.3 * torch.rand(N, 5).double() - 0.15
    back = schema.decode(noisy)
    assert (back.columns[1] == np.rint(back.columns[1])).all()
    assert set(back.columns[4]) == {"Rome", "Oslo", "Lima"}
    with pytest.raises(InputError, match="event shape"):
        schema.decode(noisy[:, :3])


def test_columns_are_matched_by_name_in_any_order():
    raw, schema = example(), Schema.infer(example(), categorical=True)
    order = [3, 5, 1, 0, 2, 4]
    shuffled = table(**{raw.names[i]: raw.columns[i].tolist() for i in order})
    assert schema.encode(shuffled).equal(schema.encode(raw))


def test_columns_without_names_are_matched_by_position():
    values = rng().normal(size=(N, 2))
    schema = Schema.infer(table(a=values[:, 0], b=values[:, 1]))
    np.testing.assert_array_equal(schema.encode(array_raw(values)), values)
    unnamed = Schema.infer(array_raw(values))
    np.testing.assert_array_equal(unnamed.encode(table(b=values[:, 0], a=values[:, 1])), values)


def test_dropped_columns_may_be_absent_later():
    raw = example()
    schema = Schema.infer(raw, drop=["city", "planet"])
    assert "Dropped on request: planet, city." in schema.notes
    rest = table(**{k: v for k, v in zip(raw.names, raw.columns, strict=True) if k not in ("city", "planet")})
    assert schema.encode(rest).equal(schema.encode(raw))
    values = rng().normal(size=(N, 3))
    positional = Schema.infer(array_raw(values), drop=["x2"])
    np.testing.assert_array_equal(positional.encode(array_raw(values)), values[:, [0, 2]])
    np.testing.assert_array_equal(positional.encode(array_raw(values[:, [0, 2]])), values[:, [0, 2]])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, r"row 1, column 'city' is text \('\w+'\), not a number; use --categorical .* or --drop city"),
        ({"categorical": True, "discrete": False}, "discrete columns have no density: city, age; allow"),
        ({"categorical": True, "drop": ["town"]}, "no column 'town' to drop; its columns are height"),
        ({"drop": ["height", "age", "planet", "feet", "city", "age again"]}, "every column was dropped"),
        ({"drop": ["height", "age", "feet", "city", "age again"]}, "every column is constant"),
    ],
)
def test_refused_by_infer(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Schema.infer(example(), **options)


def test_refusing_discrete_columns_accepts_continuous_ones():
    schema = Schema.infer(table(a=rng().normal(size=N)), discrete=False)
    assert not schema.discrete
    assert schema.notes == ()


def test_the_owner_overrules():
    ages = 20 + np.arange(N) % 40
    raw = table(age=ages, height=rng(1).normal(170, 10, N), rain=np.where(np.arange(N) % 4 == 0, 0.0, rng(2).random(N)))
    schema = Schema.infer(raw, continuous=["age", "rain"], lattice={"height": 0.5})
    assert schema.bin_width.tolist() == [0, 0.5, 0]
    notes = "\n".join(schema.notes)
    assert "Continuous as asked: age, rain (25% of the rows are 0, where a density has no bound)." in notes
    assert "On a lattice as asked: height (step 0.5)." in notes
    assert (schema.encode(raw)[:, 1] * 2 % 1).unique().numel() == 1
    assert Schema.from_json(schema.to_json()) == schema
    assert schema.cells != Schema.infer(raw).cells


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"continuous": ["agee"]}, "no column 'agee' for --continuous; its columns are height, age"),
        ({"lattice": {"city": 1.0}}, "column 'city' is text, which is no number; leave it out of --lattice"),
        ({"lattice": {"age": 1.0}, "continuous": ["age"]}, "cannot be both"),
        ({"lattice": {"age": 0.0}}, "the step of column 'age' must be a positive number; got 0.0"),
        ({"lattice": {"age": float("nan")}}, "must be a positive number"),
    ],
)
def test_the_owner_is_told_what_cannot_be(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Schema.infer(example(), categorical=True, **options)


def test_a_density_of_few_digits_is_named():
    schema = Schema.infer(table(a=rng().normal(size=3000).round(3), b=rng(1).normal(size=3000)))
    assert schema.notes == ("Treated as continuous: a (recorded to 3 decimals).",)
    assert not schema.discrete


def test_missing_values_name_the_first_cell_and_the_count():
    raw = example(height=np.where(np.arange(N) % 50 == 7, np.nan, 1.0 + rng().random(N)))
    with pytest.raises(InputError, match=r"row 8, column 'height' is missing \(4 missing .* --drop height"):
        Schema.infer(raw, categorical=True)
    city = [None if i == 3 else "Rome" for i in range(N)]
    with pytest.raises(InputError, match=r"row 4, column 'city' is missing \(1 missing"):
        Schema.infer(example(city=["Rome", *city[1:]]), categorical=True)


def test_too_many_levels():
    names = [f"name {i}" for i in range(500)]
    with pytest.raises(InputError, match="has 500 different texts, too many"):
        Schema.infer(table(a=rng().normal(size=500), s=names), categorical=True)


def test_a_row_counter_is_pointed_out():
    schema = Schema.infer(table(index=np.arange(N), a=rng().normal(size=N)))
    assert "'index' counts the rows" in schema.notes[0]
    assert schema.columns == ("index", "a")


# ----------------------------------------------------------------------------- later rows


def changed(column, row, value):
    columns = dict(zip(example().names, example().columns, strict=True))
    array = columns[column].astype(object if isinstance(value, str) else columns[column].dtype)
    if isinstance(value, float):
        array = array.astype(float)
    array[row] = value
    raw = example()
    arrays = tuple(array if name == column else columns[name] for name in raw.names)
    return Raw("later.csv", "table", names=raw.names, named=True, columns=arrays)


@pytest.mark.parametrize(
    ("column", "row", "value", "sentence"),
    [
        ("age", 6, 30.5, r"row 7, column 'age': 30\.5 is off the lattice of step 1 through 0"),
        ("planet", 2, 4.0, r"row 3, column 'planet': 4\.0 differs from 3\.0, the only value"),
        ("feet", 9, 1.0, r"row 10, column 'feet': 1\.0 is not -0\.5 \+ 3\.281 \* 'height'"),
        ("age again", 0, 3.0, r"row 1, column 'age again': 3\.0 is not the same as 'age'"),
        ("city", 4, "Bonn", r"row 5, column 'city': the level 'Bonn' was not .* \(it knows Lima, Oslo, Rome\)"),
        ("height", 1, float("nan"), r"row 2, column 'height' is missing \(1 missing value"),
        ("height", 1, float("inf"), "row 2, column 'height' is infinite"),
        ("height", 3, "tall", r"row 4, column 'height': 'tall' is not a number"),
    ],
)
def test_refused_by_encode(column, row, value, sentence):
    schema = Schema.infer(example(), categorical=True)
    with pytest.raises(InputError, match=sentence) as caught:
        schema.encode(changed(column, row, value))
    assert str(caught.value).startswith("later.csv: ")


def test_every_row_is_judged_by_itself():
    schema, raw = Schema.infer(example(), categorical=True), example()
    columns = [column.copy() for column in raw.columns]
    place = raw.names.index
    columns[place("age")] = columns[place("age")].astype(float)
    columns[place("height")][1] = np.nan
    columns[place("height")][3] = np.inf
    columns[place("age")][4] += 0.5
    columns[place("planet")][6] = 4.0
    columns[place("city")][7] = "Bonn"
    columns[place("feet")] = columns[place("feet")].astype(object)
    columns[place("feet")][8] = "tall"
    later = Raw("later.csv", "table", names=raw.names, named=True, columns=tuple(columns))
    x, kept, refused = schema.encode_each(later)
    assert sorted(refused) == [1, 3, 4, 6, 7, 8]
    assert kept.tolist() == [i for i in range(N) if i not in refused]
    assert x.equal(schema.encode(raw)[kept])
    for row, words in {
        1: "'height' is missing",
        3: "'height' is infinite",
        4: "off the lattice",
        6: "'planet'",
    }.items():
        assert refused[row].startswith(f"row {row + 1}, column ")
        assert words in refused[row]
    assert "'Bonn'" in refused[7]
    assert "'tall' is not a number" in refused[8]


def test_where_no_row_fits_the_first_is_named():
    schema = Schema.infer(table(a=rng().normal(size=N), b=np.arange(N) % 5))
    with pytest.raises(InputError, match=r"no row fits the model: row 1, column 'b': 0\.5 is off the lattice"):
        schema.encode_each(table(a=[0.0, np.nan], b=[0.5, 1.0]))
    with pytest.raises(InputError, match=r"row 1, column 'a' is missing \(2 missing values in 1 column: a\)"):
        schema.encode_each(table(a=[np.nan, np.nan], b=[0.0, 1.0]))
    with pytest.raises(InputError, match="lacks column 'b'"):
        schema.encode_each(table(a=[0.0]))


def test_images_are_judged_one_by_one():
    schema = from_array(rng().integers(0, 9, (20, 1, 4, 4))).schema
    later = np.zeros((3, 1, 4, 4))
    later[0, 0, 1, 2], later[2, 0, 0, 0] = 0.5, np.nan
    x, kept, refused = schema.encode_each(array_raw(later))
    assert (x.shape, kept.tolist()) == ((1, 1, 4, 4), [1])
    assert refused[0].startswith("x[0], pixel (0, 1, 2): 0.5 is off the lattice")
    assert refused[2] == "x[2], pixel (0, 0, 0) is nan"


@pytest.mark.parametrize(("code", "said"), [(-999, True), (9999, True), (-99, True), (3, False)])
def test_numbers_that_stand_for_missing_ones_are_pointed_out(code, said):
    values = rng().normal(size=N)
    values[5:8] = code
    notes = " ".join(from_array(np.stack([values, rng(1).normal(size=N)], 1)).schema.notes)
    assert (f"'x1' is {code} in 3 rows, far from its other values" in notes) == said


@pytest.mark.parametrize(("low", "codes"), [(1, (98, 99)), (1, (-9, -8)), (20, (-9999, -999))])
def test_several_such_numbers_do_not_hide_each_other(low, codes):
    values = rng().integers(low, low + 5, N)
    values[:3], values[3:5] = codes
    notes = " ".join(from_array(np.stack([values, rng(1).integers(0, 5, N)], 1)).schema.notes)
    assert f"'x1' is {codes[0]} in 3 rows and {codes[1]} in 2 rows, far from" in notes


@pytest.mark.parametrize("code", [1e20, -3.4028235e38])
def test_a_fill_value_that_ends_the_digits_of_all_others_is_refused(code):
    values = rng().normal(size=(N, 2))
    values[4] = code
    with pytest.raises(InputError, match=r"array: x\[4\], column 'x1': .* is so far from the other values.*--drop x1"):
        from_array(values)


def test_notes_on_many_columns_name_a_few():
    (note,) = from_array(rng().integers(0, 4, (N, 30))).schema.notes
    assert note.endswith("x12 (step 1) and 18 more.")


def test_numbers_too_small_to_square():
    with pytest.raises(InputError, match="column 'x1' is too small to square; rescale it"):
        from_array(rng().normal(size=(N, 1)) * 1e-200)


def test_wrong_columns():
    schema = Schema.infer(table(a=rng().normal(size=N), b=rng(1).normal(size=N)))
    with pytest.raises(InputError, match="lacks column 'b'; the model was fitted to the columns a, b"):
        schema.encode(table(a=np.ones(3)))
    with pytest.raises(InputError, match="has the unknown column 'c'"):
        schema.encode(table(a=np.ones(3), b=np.ones(3), c=np.ones(3)))
    with pytest.raises(InputError, match="lacks columns 'a', 'b' and has the unknown columns 'c', 'd'; the model"):
        schema.encode(table(c=np.ones(3), d=np.ones(3)))
    with pytest.raises(InputError, match="has 3 columns, but the model was fitted to 2: a, b"):
        schema.encode(array_raw(np.ones((3, 3))))
    with pytest.raises(InputError, match="holds images, but the model was fitted to table"):
        schema.encode(array_raw(np.ones((3, 3, 3))))


def test_one_row_can_be_scored():
    schema = Schema.infer(example(), categorical=True)
    assert schema.encode(example(n=N)).shape == (N, 5)
    one = table(**{name: column[:1].tolist() for name, column in zip(example().names, example().columns, strict=True)})
    assert schema.encode(one).equal(schema.encode(example())[:1])


def test_numbers_in_a_text_column_of_later_rows_are_levels():
    schema = Schema.infer(table(code=["1", "2", "x"] * 20, a=rng().normal(size=60)), categorical=True)
    later = schema.encode(table(code=np.array([2.0, 1.0]), a=np.zeros(2)))
    assert later[:, :3].tolist() == [[0, 1, 0], [1, 0, 0]]


def test_constant_text_and_copied_text():
    kind = ["u", "v"] * 30
    raw = table(a=rng().normal(size=60), k=kind, same=list(kind), one=["z"] * 60)
    schema = Schema.infer(raw, categorical=True)
    assert schema.columns == ("a", "k=u", "k=v")
    with pytest.raises(InputError, match="row 2, column 'same': u is not the same as 'k'"):
        schema.encode(table(a=np.zeros(2), k=["u", "v"], same=["u", "u"], one=["z", "z"]))
    with pytest.raises(InputError, match="row 1, column 'one': y differs from z"):
        schema.encode(table(a=np.zeros(1), k=["u"], same=["u"], one=["y"]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [-2.5, 1e-6, 4e7])
def test_affine_copies_at_any_scale(dtype, slope):
    a = rng().normal(5.0, 2.0, 500).astype(dtype)
    noise = rng(1).normal(size=500).astype(dtype)
    schema = Schema.infer(table(a=a, b=(slope * a + 3 * slope).astype(dtype), c=noise))
    assert schema.columns == ("a", "c")


def test_nearly_collinear_columns_are_kept():
    a = rng().normal(size=500)
    schema = Schema.infer(table(a=a, b=a + 1e-4 * rng(1).normal(size=500), c=a**3))
    assert schema.columns == ("a", "b", "c")


# --------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (rng().integers(0, 256, (20, 1, 4, 4)).astype(np.uint8), 1.0),
        (255 * rng().integers(0, 2, (20, 1, 4, 4)), 1.0),
        (rng().integers(0, 17, (20, 1, 4, 4)).astype(float), 1.0),
        (rng().random((20, 1, 4, 4)) < 0.5, 1.0),
        ((rng().integers(0, 256, (20, 3, 4, 4)) / 255).astype(np.float32), 1 / 255),
        (rng().integers(0, 256, (20, 3, 8, 8)) / 127.5 - 1, 2 / 255),
        (rng().integers(0, 16, (20, 3, 4, 4)) / 16, 1 / 16),
        (rng().normal(size=(20, 3, 4, 4)), 0.0),
        (rng().integers(0, 5, (20, 6, 7)), 1.0),
    ],
)
def test_pixels(values, step):
    data = from_array(values)
    assert data.schema.kind == "images"
    assert data.schema.columns is None
    assert data.schema.bin_width.shape == values.shape[1:]
    assert data.schema.bin_width.unique().tolist() == pytest.approx([step], rel=1e-9)
    np.testing.assert_allclose(data.x.numpy(), values, atol=1e-7)
    assert Schema.from_json(data.schema.to_json()) == data.schema
    assert any("Discrete pixels" in note for note in data.schema.notes) == bool(step)


def test_images_refused_later():
    schema = from_array(rng().integers(0, 9, (20, 1, 4, 4))).schema
    with pytest.raises(InputError, match=r"images of shape \(1, 5, 5\), but the model was fitted to \(1, 4, 4\)"):
        schema.encode(array_raw(np.zeros((2, 1, 5, 5))))
    bad = np.zeros((2, 1, 4, 4))
    bad[1, 0, 2, 3] = 0.5
    with pytest.raises(InputError, match=r"array: x\[1\], pixel \(0, 2, 3\): 0\.5 is off the lattice of step 1"):
        schema.encode(array_raw(bad))
    bad[1, 0, 2, 3] = np.nan
    with pytest.raises(InputError, match=r"array: x\[1\], pixel \(0, 2, 3\) is nan"):
        schema.encode(array_raw(bad))
    with pytest.raises(InputError, match="holds table, but the model was fitted to images"):
        schema.encode(array_raw(np.zeros((2, 16))))


def test_images_refused_at_once():
    values = rng().integers(0, 9, (20, 1, 4, 4))
    with pytest.raises(InputError, match=r"pixels are discrete \(step 1\)"):
        from_array(values, discrete=False)
    with pytest.raises(InputError, match="no columns to drop or state; leave x1 out"):
        from_array(values, drop=["x1"])


def test_decoded_images_lie_on_the_lattice():
    schema = from_array(rng().integers(0, 9, (20, 1, 4, 4))).schema
    back = schema.decode(torch.full((2, 1, 4, 4), 3.4))
    assert np.unique(back.stack).tolist() == [3.0]
