"""Where the images of a run come from."""

from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import ToTensor

from cam_extras.runs.sources import Files, Items, Stream, open_source

ORDER = ["a/deep/1.jpg", "a/z.bmp", "b/10.PNG", "b/2.png"]  # of the images of `folder`
CATEGORIES = ("tench", "Goldfish", "great white shark", "cardigan", "cardigan")


def save(path, colour=(1, 2, 3), size=(4, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Classes b and a, with a hidden file, a text and a folder without images among them."""
    for number, name in enumerate(("b/2.png", "b/10.PNG", "a/deep/1.jpg", "a/z.bmp", ".hidden/1.png", "a/.1.png")):
        save(tmp_path / name, (number, 0, 0))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    return tmp_path


def write(path, *lines, encoding="utf-8"):
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return path


def paths(source):
    return [source.path(index) for index in range(len(source))]


def labels(source):
    return [sample.label for sample in source]


class TestFolders:
    def test_order_paths_and_labels_as_of_imagefolder(self, folder):
        for given in (folder, str(folder), f"{folder}/"):
            source = open_source(given)
            assert isinstance(source, Files)
            assert paths(source) == ORDER
            assert source.size == len(source) == 4
            assert labels(source) == [0, 0, 1, 1]
        (folder / ".hidden" / "1.png").unlink()
        (folder / ".hidden").rmdir()  # which torchvision takes for a class
        assert source.labels == tuple(ImageFolder(folder, is_valid_file=lambda path: "notes" not in path).targets[1:])

    def test_images(self, folder):
        sample = open_source(folder).read(3)
        assert (sample.index, sample.path, sample.label, sample.boxes, sample.mask) == (3, "b/2.png", 1, None, None)
        assert sample.image.mode == "RGB"
        assert sample.image.getpixel((0, 0)) == (0, 0, 0)
        assert open_source(folder).read(2).image.getpixel((0, 0)) == (1, 0, 0)

    def test_flat_folders_have_no_labels(self, folder):
        save(folder / "top.png")
        source = open_source(folder)
        assert paths(source) == [*ORDER, "top.png"]
        assert source.labels == (None,) * 5
        with pytest.raises(ValueError, match="has no labels"):
            open_source(folder, labels_needed=True)

    def test_an_empty_folder_is_a_class(self, folder):
        (folder / "aa").mkdir()
        assert labels(open_source(folder)) == [0, 0, 2, 2]

    @pytest.mark.parametrize(
        ("a", "b", "categories", "expected"),
        [
            ("7", "007", (), (7, 7)),
            ("10", "9", CATEGORIES, (10, 9)),
            ("GOLDFISH", "tench", CATEGORIES, (1, 0)),
            ("Goldfish", "2", CATEGORIES, (1, 2)),
            ("n01", "n02", ("tench", "Goldfish"), (0, 1)),
            ("n01", "n02", (), (0, 1)),
            ("n01", "n02", CATEGORIES, (None, None)),
            ("n01", "tench", ("tench", "Goldfish"), (None, 0)),  # not 0 and 1
            ("1", "other", (), (1, None)),  # not 0 and 1
            ("cardigan", "tench", CATEGORIES, (None, 0)),  # the name of two classes
        ],
    )
    def test_class_numbers(self, tmp_path, a, b, categories, expected):
        save(tmp_path / a / "1.png")
        save(tmp_path / b / "2.png")
        source = open_source(tmp_path, categories=categories)
        assert dict(zip(source.paths, source.labels, strict=True)) == {
            f"{a}/1.png": expected[0],
            f"{b}/2.png": expected[1],
        }
        if None in expected:
            with pytest.raises(ValueError, match=r"class numbers of . of the 2 folders .* CSV file with class numbers"):
                open_source(tmp_path, categories=categories, labels_needed=True)
        else:
            assert open_source(tmp_path, categories=categories, labels_needed=True).labels == source.labels

    def test_broken_files_are_errors_of_their_own(self, folder):
        (folder / "a" / "0.jpeg").write_bytes(b"no image")
        source = open_source(folder)
        assert source.path(0) == "a/0.jpeg"
        with pytest.raises(ValueError, match=r"cannot read .*0\.jpeg"):
            source.read(0)
        assert source.read(1).path == "a/deep/1.jpg"

    @pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights")
    def test_links(self, folder, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        save(elsewhere / "1.png")
        (folder / "c").symlink_to(elsewhere)
        (elsewhere / "back").symlink_to(folder)
        (folder / "a" / "gone.png").symlink_to(folder / "nowhere.png")
        (folder / "a" / "circle.png").symlink_to(folder / "a" / "circle.png")
        found = paths(open_source(folder))
        assert found == ["a/circle.png", "a/deep/1.jpg", "a/gone.png", "a/z.bmp", "b/10.PNG", "b/2.png", "c/1.png"]

    def test_nothing_there(self, tmp_path):
        (tmp_path / "notes.txt").write_text("no image")
        with pytest.raises(ValueError, match=rf"no images in '{tmp_path}': .*\.jpeg, .*\.png"):
            open_source(str(tmp_path))
        with pytest.raises(ValueError, match="there is no 'nowhere'"):
            open_source("nowhere")
        with pytest.raises(ValueError, match=r"notes\.txt is not a table"):
            open_source(tmp_path / "notes.txt")

    @pytest.mark.skipif(os.name == "nt", reason="the home folder has another variable there")
    def test_home(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder))
        source = open_source("~/a")
        assert source.read(1).path == "z.bmp"
        assert source.describe()["location"] == "~/a"

    def test_relative_folders_are_found_from_elsewhere(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        source = open_source("a")
        monkeypatch.chdir(folder.parent)
        assert paths(source) == ["deep/1.jpg", "z.bmp"]
        assert source.read(1).image.size == (4, 3)
        assert source.describe()["location"] == "a"

    def test_images_are_not_opened_before_they_are_read(self, tmp_path, monkeypatch):
        for number in range(300):
            (tmp_path / f"{number}.jpg").touch()
        monkeypatch.setattr(Image, "open", None)
        source = open_source(tmp_path)
        assert len(pickle.dumps(source)) < 300 * 20
        assert pickle.loads(pickle.dumps(source)).describe() == source.describe()


class TestGlobs:
    def test_paths_are_relative_to_what_is_fixed(self, folder, monkeypatch):
        assert paths(open_source(f"{folder}/**/*.*")) == ORDER
        assert paths(open_source(f"{folder}/a/*")) == ["z.bmp"]
        assert paths(open_source(f"{folder}/?/*")) == ["a/z.bmp", "b/10.PNG", "b/2.png"]
        monkeypatch.chdir(folder / "a")
        source = open_source("**/*")
        assert paths(source) == ["deep/1.jpg", "z.bmp"]
        assert labels(source) == [None, None]
        assert source.read(0).image.size == (4, 3)

    def test_files_of_that_very_name(self, tmp_path):
        save(tmp_path / "[a]" / "1.png")
        save(tmp_path / "a" / "2.png")
        assert paths(open_source(tmp_path / "[a]")) == ["1.png"]
        assert paths(open_source(tmp_path / "[a]" / "*.png")) == ["a/2.png"]

    def test_no_labels_or_images(self, folder):
        with pytest.raises(ValueError, match="no labels"):
            open_source(f"{folder}/a/*", labels_needed=True)
        with pytest.raises(ValueError, match=r"no images in .*\*\.txt"):
            open_source(f"{folder}/a/*.txt")


def test_lists_of_paths(folder, monkeypatch):
    monkeypatch.chdir(folder)
    source = open_source(["b/2.png", folder / "a" / "z.bmp", "nowhere.png"])
    monkeypatch.chdir("/")
    assert paths(source) == ["b/2.png", f"{folder}/a/z.bmp", "nowhere.png"]
    assert [source.read(index).image.getpixel((0, 0)) for index in range(2)] == [(0, 0, 0), (3, 0, 0)]
    with pytest.raises(ValueError, match=r"there is no image .*nowhere\.png"):
        source.read(2)
    assert len(open_source(["a", "b"], limit=1)) == 1
    assert open_source(["a", "b"]).describe() != open_source(["b", "a"]).describe()
    with pytest.raises(ValueError, match="a list of paths has no labels"):
        open_source(["a"], labels_needed=True)


def as_parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


class TestTables:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_text_survives(self, tmp_path, encoding):
        names = ["007", "a, b.png", 'say "x".png', "Zoë.png", "NA", "1e5", "two\nlines.png"]
        rows = [f'"{name.replace(chr(34), chr(34) * 2)}",{n}' for n, name in enumerate(names)]
        source = open_source(write(tmp_path / "list.csv", "path,label", *rows, encoding=encoding))
        assert paths(source) == names
        assert source.labels == tuple(range(7))
        assert paths(open_source(as_parquet(tmp_path / "list.parquet", file=names))) == names

    def test_lines_that_are_broken_in_a_large_table(self, tmp_path):
        rows = (f'{n}.png,"{"line of a description" * 3}\nand another"' for n in range(20_000))
        assert open_source(write(tmp_path / "list.csv", "path,text", *rows)).path(19_999) == "19999.png"

    @pytest.mark.parametrize("file", ["path", "file", "filename", "image", "File", " Path"])
    @pytest.mark.parametrize("label", ["label", "class_index", "target", "class", "Label"])
    def test_names_of_columns(self, tmp_path, file, label):
        source = open_source(write(tmp_path / "list.CSV", f"id,{label},{file}", "x,3,1.png", "y,4,2.png"))
        assert (source.paths, source.labels) == (("1.png", "2.png"), (3, 4))

    def test_the_first_of_several_columns(self, tmp_path):
        source = open_source(write(tmp_path / "a.csv", "class,image,label,file", "cat,no.png,1,yes.png"))
        assert (source.paths, source.labels) == (("yes.png",), (1,))

    def test_paths(self, tmp_path, monkeypatch):
        save(tmp_path / "photos" / "1.png", (5, 5, 5))
        elsewhere = tmp_path.parent / "elsewhere.png"
        lines = (str(tmp_path / "photos" / "1.png"), "./photos/1.png", "../x.png", elsewhere.as_posix(), "gone.png")
        write(tmp_path / "list.csv", "file", *lines)
        monkeypatch.chdir(tmp_path)
        source = open_source("list.csv")
        monkeypatch.chdir("/")
        assert paths(source) == ["photos/1.png", "../x.png", elsewhere.as_posix(), "gone.png"]
        assert source.read(0).image.getpixel((0, 0)) == (5, 5, 5)
        with pytest.raises(ValueError, match=r"there is no image .*gone\.png"):
            source.read(3)

    def test_boxes_of_a_file_are_put_together(self, tmp_path):
        for name in "ab":
            save(tmp_path / f"{name}.png", size=(10, 8))
        rows = ("b.png,1,0,0,4,5", "a.png,2,1,2,3,4", "b.png,,5,5.0,10,8", "c.png,3,,,,")
        expected = [("b.png", 1, [[0, 0, 4, 5], [5, 5, 10, 8]]), ("a.png", 2, [[1, 2, 3, 4]])]
        table = write(tmp_path / "boxes.csv", "file,label,xmin,ymin,xmax,ymax", *rows)
        source = open_source(table)
        assert paths(source) == ["b.png", "a.png", "c.png"]
        assert [(s.path, s.label, s.boxes.tolist()) for s in map(source.read, (0, 1))] == expected
        assert source.read(0).boxes.dtype == torch.int64
        first = open_source(table, limit=1)
        assert first.read(0).boxes.tolist() == expected[0][2]
        assert (len(first), first.boxes) == (1, {0: ((0, 0, 4, 5), (5, 5, 10, 8))})
        columns = zip(*([cell or None for cell in row.split(",")] for row in rows), strict=True)
        files, numbers, *sides = columns
        sides = [[None if side is None else float(side) for side in column] for column in sides]
        numbers = [None if number is None else int(number) for number in numbers]
        names = ("xmin", "ymin", "xmax", "ymax")
        parquet = as_parquet(
            tmp_path / "boxes.parquet", file=files, label=numbers, **dict(zip(names, sides, strict=True))
        )
        assert (parquet_ := open_source(parquet)).boxes == source.boxes
        assert (parquet_.paths, parquet_.labels) == (source.paths, source.labels)
        save(tmp_path / "c.png")
        assert source.read(2).boxes is None

    @pytest.mark.parametrize(
        "row", ["1,2,3,", "1,2,3,x", "1,2,1,4", "1,4,3,4", "-1,2,3,4", "0,0,3.5,4", "0,0,inf,4", ",,,4"]
    )
    def test_wrong_boxes(self, tmp_path, row):
        table = write(tmp_path / "a.csv", "file,xmin,ymin,xmax,ymax", "a.png,1,2,3,4", f"b.png,{row}")
        with pytest.raises(ValueError, match=r"a\.csv, row 2: a box must be"):
            open_source(table)

    def test_labels(self, tmp_path):
        cells = ["3", "", "2.0", "GREAT white shark", " 1 ", "nan", "goldfish"]
        write(tmp_path / "a.csv", "file,label", *(f"{n}.png,{cell}" for n, cell in enumerate(cells)))
        for needed in (False, True):
            source = open_source(tmp_path / "a.csv", categories=CATEGORIES, labels_needed=needed)
            assert source.labels == (3, None, 2, 2, 1, None, 1)
        assert open_source(tmp_path / "a.csv").labels == (3, None, 2, None, 1, None, None)
        assert open_source(write(tmp_path / "a.csv", "file,label", "1.png,²")).labels == (None,)

    @pytest.mark.parametrize(
        ("column", "expected"),
        [
            (pa.array([1.0, float("nan"), None]), (1, None, None)),
            (pa.array(["tench", "2", None]).dictionary_encode(), (0, 2, None)),
            (pa.array([4, 0, None], pa.uint8()), (4, 0, None)),
        ],
    )
    def test_labels_of_parquet(self, tmp_path, column, expected):
        table = as_parquet(tmp_path / "a.parquet", file=["1.png", "2.png", "3.png"], label=column)
        assert open_source(table, categories=CATEGORIES).labels == expected

    @pytest.mark.parametrize("label", ["-1", "1.5", "inf", "-0.5"])
    def test_nonsense_labels(self, tmp_path, label):
        write(tmp_path / "a.csv", "file,label", "0.png,0", f"1.png,{label}")
        with pytest.raises(ValueError, match=rf"a\.csv, row 2: a label must be a class number.*got {label}"):
            open_source(tmp_path / "a.csv")

    def test_labels_of_no_class(self, tmp_path):
        write(tmp_path / "a.csv", "file,label", "0.png,0", f"1.png,{len(CATEGORIES)}")
        assert open_source(tmp_path / "a.csv").labels == (0, len(CATEGORIES))
        match = rf"a\.csv, row 2: the label {len(CATEGORIES)} is not one of the {len(CATEGORIES)} classes"
        with pytest.raises(ValueError, match=match):
            open_source(tmp_path / "a.csv", categories=CATEGORIES)
        write(tmp_path / "a.csv", "file,label", f"1.png,{'1' * 20}")
        with pytest.raises(ValueError, match=r"a\.csv, row 1: a label must be a class number.*got 1{20}"):
            open_source(tmp_path / "a.csv")

    @pytest.mark.parametrize("values", [[True, False], [0, -1], [0.0, 1.5]])
    def test_nonsense_labels_of_parquet(self, tmp_path, values):
        table = as_parquet(tmp_path / "a.parquet", file=["1.png", "2.png"], label=values)
        with pytest.raises(ValueError, match=r"row \d: a label must be a class number"):
            open_source(table)

    def test_unknown_names(self, tmp_path):
        write(tmp_path / "a.csv", "file,class", "0.png,tench", "1.png,cardigan")
        assert open_source(tmp_path / "a.csv", categories=CATEGORIES).labels == (0, None)
        for categories, problem in (
            (CATEGORIES, "row 2: 'cardigan' is the name of more than one of the 5 classes"),
            (("tench", "goldfish"), "row 2: 'cardigan' is the name of none of the 2 classes"),
            ((), "row 1: the number of class 'tench' is not known"),
        ):
            with pytest.raises(ValueError, match=problem):
                open_source(tmp_path / "a.csv", categories=categories, labels_needed=True)

    def test_labels_that_are_needed(self, tmp_path):
        for lines in (("file", "0.png"), ("file,label", "0.png,")):
            table = write(tmp_path / "a.csv", *lines)
            assert open_source(table).labels == (None,)
            with pytest.raises(ValueError, match=r"has no labels.* column 'label'"):
                open_source(table, labels_needed=True)

    def test_two_labels_of_a_file(self, tmp_path):
        write(tmp_path / "a.csv", "file,label", "0.png,1", "1.png,1", "0.png,2")
        with pytest.raises(ValueError, match=r"row 3: '0\.png' has the label 2, and 1 in a row above"):
            open_source(tmp_path / "a.csv")
        write(tmp_path / "a.csv", "file,label", "0.png,", "0.png,2", "0.png,")
        assert open_source(tmp_path / "a.csv").labels == (2,)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"cannot read .*a\.csv: Empty CSV file"),
            ("file\n", "there are no images in"),
            ("name,label\na,1\n", "no column 'path' or 'file' or 'filename' or 'image'; it has name, label"),
            ("file,file\na,b\n", "2 columns 'file'"),
            ("file,label\na.png\n", r"cannot read .*Expected 2 columns, got 1"),
            ("file,label\n,1\n", "row 1: expected the path of a file, as text; got None"),
            ("file,xmin,xmax\na,1,2\n", "no column 'ymin', 'ymax': a box needs all four"),
        ],
    )
    def test_wrong_tables(self, tmp_path, text, message):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            open_source(tmp_path / "a.csv")

    def test_wrong_files(self, tmp_path):
        (tmp_path / "a.csv").write_bytes("file\nZoë.png\n".encode("latin-1"))
        with pytest.raises(ValueError, match="invalid UTF8"):
            open_source(tmp_path / "a.csv")
        (tmp_path / "a.parquet").write_text("no table")
        with pytest.raises(ValueError, match=r"cannot read .*a\.parquet"):
            open_source(tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="row 1: expected the path of a file, as text; got 7"):
            open_source(as_parquet(tmp_path / "a.parquet", file=[7]))


class TestDescription:
    def test_of_files(self, folder):
        first = open_source(folder).describe()
        assert first == open_source(folder).describe() == json.loads(json.dumps(first))
        assert {**first, "sha256": None} == {"kind": "files", "location": str(folder), "images": 4, "sha256": None}
        seen = [first["sha256"]]

        def changed():
            seen.append(open_source(folder).describe()["sha256"])
            assert len(set(seen)) == len(seen)

        save(folder / "b" / "3.png")
        changed()
        (folder / "b" / "3.png").rename(folder / "b" / "4.png")
        changed()
        save(folder / "b" / "4.png", size=(50, 50))
        changed()
        (folder / "aa").mkdir()  # b is class 2 now
        changed()
        (folder / "b" / "4.png").unlink()
        (folder / "aa").rmdir()
        assert open_source(folder).describe() == first
        assert open_source(folder, limit=3).describe()["sha256"] not in seen

    def test_of_tables(self, tmp_path):
        found = []
        for rows in (["a,1,,,,"], ["a,2,,,,"], ["a,,,,,"], ["a,1,1,2,3,4"], ["a,1,1,2,3,5"], ["b,1,,,,"], ["a,1,,,,"]):
            table = write(tmp_path / "a.csv", "file,label,xmin,ymin,xmax,ymax", *rows)
            found.append(open_source(table).describe()["sha256"])
        assert len(set(found)) == 6
        assert found[0] == found[-1]

    @pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
    def test_names_that_are_no_text(self, tmp_path):
        with open(os.path.join(os.fsencode(tmp_path), b"\xff.png"), "wb"):
            pass
        source = open_source(tmp_path)
        assert source.describe()["images"] == 1

    def test_of_items(self, folder):
        whole = ImageFolder(folder / "a" / "..", is_valid_file=lambda path: not path.endswith("txt"))
        description = open_source(whole).describe()
        assert description == open_source(whole).describe() == json.loads(json.dumps(description))
        assert description["kind"] == "torchvision.datasets.folder.ImageFolder"
        assert description["location"] == str(folder / "a" / "..")
        assert (description["images"], description["transform"]) == (len(whole), None)
        others = [Subset(whole, [0, 1]), Subset(whole, [1, 0]), Subset(whole, [0, 2])]
        hashes = {open_source(data).describe()["sha256"] for data in (whole, *others)}
        assert len(hashes) == 4
        assert open_source(whole, limit=2).describe()["sha256"] == open_source(others[0]).describe()["sha256"]
        whole.targets = [1 - target for target in whole.targets]
        assert open_source(whole).describe()["sha256"] not in hashes
        for transform in (ToTensor(), torch.nn.Identity()):
            whole.transform = transform
            assert open_source(whole).describe()["transform"] == f"{type(transform).__name__}()"

    def test_of_items_of_which_nothing_is_known(self):
        data = FakeData(4, (3, 2, 2))
        hashes = {open_source(Subset(data, chosen)).describe()["sha256"] for chosen in ([0, 1], [1, 0], [0, 2])}
        assert len(hashes) == 3

    def test_of_lists(self):
        x = torch.zeros(3, 4, 4)
        same = [[(x, 1), (x, 2)], [(x, torch.tensor(1)), {"image": x, "label": np.int64(2)}]]
        other = [[(x, 1), (x, 3)], [(x, 1), {"image": x, "label": 2, "path": "a"}], [x, x], [(x, 1)]]
        other.append([(x, 1), {"image": x, "label": 2, "boxes": torch.tensor([[0, 0, 1, 1]])}])
        first, second = (open_source(data).describe() for data in same)
        assert first == second
        assert first["kind"] == "builtins.list"
        hashes = {open_source(data).describe()["sha256"] for data in other}
        assert len(hashes) == 5
        assert first["sha256"] not in hashes

    def test_of_streams(self):
        data = TensorDataset(torch.zeros(5, 3, 4, 4))
        description = open_source(DataLoader(data, 2), limit=4).describe()
        assert description["images"] == 4
        assert description["loader"] == "torch.utils.data.dataloader.DataLoader"
        assert description == open_source(DataLoader(data, 3), limit=4).describe()
        assert open_source(x for x in X).describe() == {"kind": "builtins.generator", "images": None}


class TestItems:
    def test_fake_data(self):
        data = FakeData(5, (3, 6, 8), 4)
        source = open_source(data)
        assert isinstance(source, Items)
        assert paths(source) == [f"item {n}" for n in range(5)]
        sample = source.read(3)
        image, label = data[3]
        assert (sample.index, sample.path, sample.label) == (3, "item 3", label)
        np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(image))
        subset = open_source(Subset(Subset(data, [4, 3, 0]), [1, 2]))
        assert [s.label for s in subset] == [data[3][1], data[0][1]]
        np.testing.assert_array_equal(np.asarray(subset.read(0).image), np.asarray(image))
        assert subset.read(0).path == "item 0"

    def test_image_folder(self, folder):
        data = ImageFolder(folder, ToTensor(), is_valid_file=lambda path: path.endswith(("jpg", "png")))
        expected = [".hidden/1.png", "a/.1.png", "a/deep/1.jpg", "b/2.png"]
        source = open_source(data)
        assert paths(source) == [sample.path for sample in source] == expected
        assert labels(source) == [0, 1, 1, 2]
        assert torch.equal(source.read(3).image, data[3][0])
        assert paths(open_source(Subset(data, torch.tensor([3, 1])))) == ["b/2.png", "a/.1.png"]
        restored = pickle.loads(pickle.dumps(open_source(ImageFolder(folder, allow_empty=True))))
        assert restored.read(len(restored) - 1).path == "b/2.png"

    def test_a_path_is_known_of_what_cannot_be_read(self, folder):
        data = ImageFolder(folder, is_valid_file=lambda path: True)
        source = open_source(data)
        broken = paths(source).index("a/notes.txt")
        with pytest.raises(OSError, match="cannot identify image file"):
            source.read(broken)

    def test_lists_of_files_that_are_not_those_of_the_items(self):
        data = FakeData(3, (3, 2, 2))
        data.samples, data.imgs, data.targets = [("a.png", 1)], {0: "b.png", 1: "c.png", 2: "d.png"}, None
        assert paths(open_source(data)) == ["item 0", "item 1", "item 2"]
        data.imgs = ["b.png", "c.png", "d.png"]
        assert paths(open_source(data)) == ["b.png", "c.png", "d.png"]

    def test_kinds_of_items(self):
        x, boxes, mask = torch.rand(3, 4, 5), [[0, 0, 2, 2]], np.ones((4, 5), bool)
        image = Image.new("L", (5, 4), 9)
        full = {"image": image, "label": "tench", "path": "b\\c.png", "boxes": boxes, "mask": mask, "author": "?"}
        items = [x, (x, 1), [x, torch.tensor([2])], (x,), {"image": x}, full, (x, None), (x, np.int32(3)), (x, "")]
        source = open_source(items, categories=CATEGORIES)
        assert labels(source) == [None, 1, 2, None, None, 0, None, 3, None]
        assert all(sample.image is x for n, sample in enumerate(source) if n != 5)
        sample = source.read(5)
        assert sample.path == source.path(5)
        assert sample.image.mode == "RGB"
        assert sample.image.getpixel((0, 0)) == (9, 9, 9)
        assert sample.boxes.tolist() == boxes
        assert sample.boxes.dtype == torch.int64
        assert sample.mask.shape == (4, 5)
        assert sample.mask.dtype == torch.bool
        assert [s.label for s in open_source(tuple(items), limit=2)] == [None, 1]
        assert len(open_source(items, limit=100)) == 9

    def test_images_are_converted_as_files_are(self):
        sixteen = Image.fromarray(np.full((2, 2), 257 * 7, np.uint16))
        clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
        turned = Image.new("RGB", (4, 2))
        turned.getexif()[0x0112] = 6
        source = open_source([sixteen, clear, turned, Image.new("F", (2, 2))])
        assert source.read(0).image.getpixel((0, 0)) == (7, 7, 7)
        assert source.read(1).image.getpixel((0, 0)) == (255, 255, 255)
        assert source.read(2).image.size == (2, 4)
        with pytest.raises(ValueError, match="holds 'F' values"):
            source.read(3)

    @pytest.mark.parametrize(
        ("item", "error", "message"),
        [
            (("a.png", 1), TypeError, "item 0: expected a Pillow image .*; got str"),
            (np.zeros((4, 4, 3)), TypeError, r"got ndarray of shape \(4, 4, 3\)"),
            (torch.zeros(4), TypeError, r"got Tensor of shape \(4,\)"),
            ((torch.zeros(3, 4, 4), 1, 2), TypeError, "got tuple of 3"),
            ({"pixels": 1, "label": 2}, TypeError, "got dict with the keys 'pixels', 'label'"),
            ((torch.zeros(3, 4, 4), -1), ValueError, "item 0: a label must be a class number"),
            ((torch.zeros(3, 4, 4), True), ValueError, "got True"),
            ((torch.zeros(3, 4, 4), torch.tensor([0, 1])), ValueError, "a label must be a class number"),
            ((torch.zeros(3, 4, 4), {}), ValueError, "a label must be a class number"),
            ({"image": torch.zeros(3, 4, 4), "boxes": [0, 0, 2, 2]}, ValueError, r"boxes must have shape \(B, 4\)"),
            ({"image": torch.zeros(3, 4, 4), "boxes": [[2, 0, 2, 2]]}, ValueError, "item 0: a box must be"),
            ({"image": torch.zeros(3, 4, 5), "mask": torch.zeros(5, 4).bool()}, ValueError, r"shape \(4, 5\)"),
            ({"image": Image.new("L", (5, 4)), "mask": torch.zeros(4, 5)}, ValueError, "must be boolean"),
        ],
    )
    def test_wrong_items(self, item, error, message):
        source = open_source([item])
        assert source.path(0) == "item 0"
        assert source.describe()["images"] == 1
        with pytest.raises(error, match=message):
            source.read(0)

    def test_no_boxes(self):
        assert open_source([{"image": torch.zeros(3, 4, 4), "boxes": torch.zeros(0, 4)}]).read(0).boxes is None

    def test_labels_that_are_needed(self):
        source = open_source([(torch.zeros(3, 4, 4), "x"), torch.zeros(3, 4, 4)], labels_needed=True)
        with pytest.raises(ValueError, match="item 0: the number of class 'x' is not known"):
            source.read(0)
        assert source.read(1).label is None
        assert open_source([(torch.zeros(3, 4, 4), "x")]).read(0).label is None

    def test_data_sets_are_read_by_one_thread_at_a_time(self):
        class Data:
            inside = 0

            def __len__(self):
                return 50

            def __getitem__(self, index):
                self.inside += 1
                alone = self.inside == 1
                torch.rand(20_000).sort()
                self.inside -= 1
                return torch.zeros(1, 1, 1), int(alone)

        with ThreadPoolExecutor(4) as pool:
            assert [sample.label for sample in pool.map(open_source(Data()).read, range(50))] == [1] * 50

    def test_nothing_there(self):
        for empty in ([], (), FakeData(0), Subset(FakeData(3), [])):
            with pytest.raises(ValueError, match="there are no images in the"):
                open_source(empty)

    @pytest.mark.parametrize(
        ("data", "got"),
        [
            (torch.zeros(2, 3, 4, 4), r"Tensor of shape \(2, 3, 4, 4\)"),
            (np.zeros((2, 3)), "ndarray of shape"),
            ({"image": 1}, "dict with the keys 'image'"),
            (None, "NoneType"),
            (7, "int"),
        ],
    )
    def test_other_data(self, data, got):
        with pytest.raises(TypeError, match=f"data must be a folder, .*; got {got}"):
            open_source(data)

    @pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
    def test_wrong_limits(self, limit, error):
        with pytest.raises(error, match="limit must be"):
            open_source([torch.zeros(3, 4, 4)], limit=limit)


X, Y = torch.arange(5 * 3 * 2 * 2.0).reshape(5, 3, 2, 2), torch.tensor([4, 3, 2, 1, 0])


class Dicts:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        box = torch.tensor([[0, 0, 1, index + 1]])
        mask = torch.ones(4, 4, dtype=torch.bool)
        image = torch.full((3, 4, 4), float(index))
        return {"image": image, "label": "tench", "path": f"{index}.png", "boxes": box, "mask": mask, "id": "x"}


class Endless(IterableDataset):
    def __iter__(self):
        index = 0
        while True:
            yield torch.full((3, 2, 2), float(index)), index
            index += 1


class Sized(Endless):
    def __len__(self):
        return 10


class TestStreams:
    @pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
    def test_loaders(self, batch_size):
        for data, expected in ((TensorDataset(X, Y), Y.tolist()), (TensorDataset(X), [None] * 5), (X, [None] * 5)):
            source = open_source(DataLoader(data, batch_size))
            assert isinstance(source, Stream)
            for _ in range(2):
                samples = list(source)
                assert [sample.index for sample in samples] == list(range(5)) == list(range(source.size))
                assert [sample.label for sample in samples] == expected
                assert [sample.path for sample in samples] == [f"item {n}" for n in range(5)]
                assert torch.equal(torch.stack([sample.image for sample in samples]), X)

    def test_loaders_of_dicts(self):
        samples = list(open_source(DataLoader(Dicts(), 2), categories=CATEGORIES))
        assert [sample.path for sample in samples] == ["0.png", "1.png", "2.png"]
        assert [sample.label for sample in samples] == [0, 0, 0]
        assert [sample.boxes.tolist() for sample in samples] == [[[0, 0, 1, n + 1]] for n in range(3)]
        assert all(sample.mask.shape == (4, 4) and sample.mask.all() for sample in samples)
        assert [sample.image.unique().tolist() for sample in samples] == [[0], [1], [2]]

    def test_loaders_of_files_know_the_paths(self, folder):
        data = ImageFolder(folder, ToTensor(), is_valid_file=lambda path: path.endswith(("bmp", "jpg", "png")))
        source = open_source(DataLoader(data, 3))
        assert [sample.path for sample in source] == paths(open_source(data))
        assert source.size == len(data)
        own = open_source(DataLoader(data, 3, collate_fn=lambda items: torch.stack([items[0][0]])))
        assert [sample.path for sample in own] == ["item 0", "item 1"]
        assert own.size is None

    def test_sizes(self):
        data = TensorDataset(X)
        for loader, limit, expected in (
            (DataLoader(data, 2, drop_last=True), None, 4),
            (DataLoader(data, 2, drop_last=True), 3, 3),
            (DataLoader(data, 2), 3, 3),
            (DataLoader(data, 2), 9, 5),
        ):
            source = open_source(loader, limit=limit)
            assert source.size == expected == len(list(source))
        assert open_source(DataLoader(Endless(), 2), limit=3).size is None
        assert [sample.label for sample in open_source(DataLoader(Endless(), 2), limit=3)] == [0, 1, 2]

    def test_without_batches(self):
        for data in (TensorDataset(X, Y), [(x, int(y)) for x, y in zip(X, Y, strict=True)]):
            assert labels(open_source(DataLoader(data, batch_size=None))) == Y.tolist()

    def test_an_order_of_its_own_is_refused(self):
        data = TensorDataset(X, Y)
        sampler = BatchSampler(SequentialSampler(data), 2, False)
        for options in (
            {"shuffle": True},
            {"shuffle": True, "batch_size": None},
            {"sampler": [1, 0]},
            {"sampler": torch.utils.data.WeightedRandomSampler([1.0] * 5, 5)},
            {"batch_sampler": [[0, 1], [2, 3]]},
            {"batch_sampler": BatchSampler(torch.utils.data.RandomSampler(data), 2, False)},
        ):
            with pytest.raises(ValueError, match=r"the DataLoader shuffles.*give the data set itself"):
                open_source(DataLoader(data, **options))
        assert labels(open_source(DataLoader(data, batch_sampler=sampler))) == Y.tolist()
        loader = DataLoader(data, num_workers=2)
        open_source(loader)
        loader.in_order = False
        with pytest.raises(ValueError, match="the DataLoader shuffles"):
            open_source(loader)

    def test_iterables(self):
        items = [(x, int(y)) for x, y in zip(X, Y, strict=True)]
        source = open_source(iter(items))
        assert source.size is None
        assert labels(source) == Y.tolist()
        with pytest.raises(ValueError, match="no images in the list_iterator, or it has been read already"):
            next(iter(source))
        assert labels(open_source((x for x in X), limit=2)) == [None, None]
        pictures = ({"image": Image.new("L", (2, 2)), "path": f"{n}.png"} for n in range(2))
        assert [(s.path, s.image.mode) for s in open_source(pictures)] == [("0.png", "RGB"), ("1.png", "RGB")]
        assert labels(open_source(Endless(), limit=3)) == labels(open_source(Sized(), limit=3)) == [0, 1, 2]

    def test_no_more_is_taken_than_the_limit(self):
        items = iter([(x, 0) for x in X])
        assert len(list(open_source(items, limit=2))) == 2
        assert len(list(items)) == 3

    def test_batches_of_iterables(self):
        for batches in (
            [(X[:2], Y[:2]), (X[2:], Y[2:])],
            [(X[:2], [4, 3]), (X[2:], Y[2:].numpy())],
            [{"image": X, "label": Y, "path": list("abcde")}],
            [(X[:1], Y[:1]), (X[1:], Y[1:])],
        ):
            samples = list(open_source(iter(batches)))
            assert [sample.label for sample in samples] == Y.tolist()
            assert torch.equal(torch.stack([sample.image for sample in samples]), X)

    def test_what_is_no_batch(self):
        (volume,) = open_source(iter([X]))  # one input of two spatial dimensions more
        assert volume.image is X
        (volume,) = open_source(iter([(X, 3)]))
        assert (volume.image is X, volume.label) == (True, 3)
        (image,) = open_source(iter([(torch.zeros(1, 4, 4), torch.tensor([3]))]))
        assert (image.image.shape, image.label) == ((1, 4, 4), 3)

    @pytest.mark.parametrize(
        ("collated", "error", "message"),
        [
            ((X, Y[:3]), ValueError, "expected one label for each of the 5 images of a batch; got 3"),
            ((X, 3), TypeError, "expected one label for each of the 5 images of a batch; got int"),
            ((X, torch.tensor(3)), TypeError, r"got Tensor of shape \(\)"),
            ({"image": X, "path": "abcde"}, TypeError, "expected one path .*; got str"),
            ((X, Y, Y), TypeError, "batches must be .*; got tuple of 3: give the data set itself"),
            ([Image.new("L", (2, 2))], TypeError, "batches must be .*; got Image"),
            (X[0, 0], TypeError, r"batches must be .*; got Tensor of shape \(2, 2\)"),
        ],
    )
    def test_wrong_batches(self, collated, error, message):
        source = open_source(DataLoader(TensorDataset(X), 5, collate_fn=lambda items: collated))
        with pytest.raises(error, match=message):
            list(source)

    def test_wrong_items(self):
        with pytest.raises(TypeError, match=r"item 1: expected a Pillow image .*; got str"):
            list(open_source(iter([X[0], "a.png"])))


@pytest.mark.realdata
class TestRealTables:
    def test_labels(self, realdata):
        source = open_source(realdata.folder / "imagenet" / "labels.csv", labels_needed=True)
        assert len(source) == 200
        assert source.labels == tuple(range(0, 1000, 5))
        assert sorted(source.paths) == [path.name for path in realdata.paths]
        assert source.path(0) == "n01440764_tench.JPEG"
        assert min(source.read(199).image.size) == 256
        assert paths(open_source(realdata.folder / "imagenet")) == [path.name for path in realdata.paths]

    def test_boxes(self, realdata):
        source = open_source(str(realdata.folder / "imagenet_boxes" / "boxes.csv"), labels_needed=True)
        assert paths(source) == [f"ILSVRC2012_val_{n:08}.JPEG" for n in range(1, 16)]
        assert source.labels[:3] == (65, 970, 230)
        assert sum(map(len, source.boxes.values())) == 19
        assert source.read(1).boxes.tolist() == [[31, 33, 341, 111], [1, 47, 299, 142]]
        for sample in source:
            width, height = sample.image.size
            assert (sample.boxes <= torch.tensor([width, height, width, height])).all()
