"""What comes of folders of images: their splits, their classes, their files."""

from .intake import (
    ALL,
    EASY,
    HALVED,
    ROSES_AND_TULIPS,
    SHOWN,
    TWO_SPLITS,
    VALIDATED,
    Case,
    all_of,
    archive,
    both,
    folder,
    linked,
    parquet,
    split_folders,
    write,
)


SPLITS = [
    Case("Training and Testing", split_folders("Training", "Testing"), TWO_SPLITS),
    Case("Train and Test", split_folders("Train", "Test"), TWO_SPLITS),
    Case("TRAIN and VAL", split_folders("TRAIN", "VAL"), VALIDATED),
    Case("train_set and test_set", split_folders("train_set", "test_set"), TWO_SPLITS),
    Case("training_set and test_set", split_folders("training_set", "test_set"), TWO_SPLITS),
    Case("train and valid", split_folders("train", "valid"), VALIDATED),
    Case("train and validation", split_folders("train", "validation"), VALIDATED),
    Case("train and dev", split_folders("train", "dev"), VALIDATED),
    Case("train and eval", split_folders("train", "eval"), TWO_SPLITS),
    Case("train2017 and val2017", split_folders("train2017", "val2017"), VALIDATED),
    Case("Train Images and Test Images", split_folders("Train Images", "Test Images"), TWO_SPLITS),
    Case(
        "a wrapper", split_folders("flowers/train", "flowers/test"), TWO_SPLITS, note="holds but one folder, 'flowers'"
    ),
    Case("a wrapper in each split", split_folders("train/images", "test/images"), TWO_SPLITS, note="one level deeper"),
    Case(
        "an unknown folder beside a split",
        split_folders("train", "holdout"),
        error="folder 'holdout' lies beside 'train', a split.*set eval_split to its name",
    ),
    Case(
        "an unknown folder that the user names",
        split_folders("train", "holdout"),
        {"train": {"rose": 4, "tulip": 4}, "holdout": ROSES_AND_TULIPS},
        options={"eval_split": "holdout"},
    ),
    Case(
        "an unknown folder that evaluate names",
        split_folders("train", "holdout"),
        {"holdout": ROSES_AND_TULIPS},
        split="holdout",
    ),
    Case(
        "test_set by its own name",
        split_folders("train_set", "test_set"),
        {"train": {"rose": 4, "tulip": 4}, "test_set": ROSES_AND_TULIPS},
        options={"eval_split": "test_set"},
    ),
    Case("01_train and 02_test", split_folders("01_train", "02_test"), TWO_SPLITS),
    Case("1. Train and 2. Val", split_folders("1. Train", "2. Val"), VALIDATED),
    *(
        Case(
            f"{train} and {test}",
            split_folders(train, test),
            error=f"'{min(train, test)}' and '{max(train, test)}' hold the same folders .rose, tulip.*set train_split",
        )
        for train, test in (("trn", "tst"), ("seen", "unseen"), ("fold_a", "fold_b"))
    ),
    Case(
        "splits of any names that the user gives",
        split_folders("seen", "unseen"),
        {"seen": {"rose": 4, "tulip": 4}, "unseen": ROSES_AND_TULIPS},
        options={"train_split": "seen", "eval_split": "unseen"},
    ),
    Case(
        "years in classes",
        folder(*both("", name="2023/#.png", count=1), *both("", name="2024/#.png", count=1)),
        {"train": ROSES_AND_TULIPS},
        split="train",
        note="of its class",
    ),
    Case(
        "one folder in each class",
        folder(*both("", name="indoor/#.png")),
        {"train": ROSES_AND_TULIPS},
        split="train",
        note="of its class",
    ),
    Case("two to train on", split_folders("train", "Training"), error="'Training' and 'train' are both to train on"),
    Case(
        "test and eval",
        folder(*both("train/"), *both("test/", count=3), *both("eval/", count=4)),
        {"train": ROSES_AND_TULIPS, "eval": {"rose": 4, "tulip": 4}},
        options={"eval_split": "eval"},
    ),
    Case(
        "splits in classes",
        folder("rose/train/#.png", "rose/test/#.png", "tulip/train/#.png"),
        error="class folder 'rose' holds folders of splits.*train/rose|class folder 'rose'.*test/rose",
    ),
    Case("no splits", folder(*both("", count=4)), HALVED, options=EASY, note="2 of 8 images of 'train' are held out"),
    Case("only train", folder(*both("train/", count=4)), HALVED, options=EASY),
    Case("train only of many", folder(*both("train/", count=4), *both("test/")), ALL, split="train"),
    Case(
        "images beside split folders",
        folder(*both("train/"), *both("test/"), "rose.png x1"),
        {"train": ROSES_AND_TULIPS, "test": ROSES_AND_TULIPS},
        left_out={"rose.png": "in no split folder"},
    ),
    Case(
        "unlabelled test images",
        folder(*both("train/"), "test/rose #.png"),
        error="the images of split 'test' have no labels",
    ),
    Case("no class folders", folder("train/rose #.png", "test/rose #.png"), error="have no labels: put the images of"),
    Case("images only", folder("rose #.png", "tulip #.png"), error="have no labels: put the images of each class"),
]

CLASSES = [
    Case("train in names of files", folder(*both("", name="train #.png", count=4)), ALL, split="train"),
    Case(
        "test in a name of a file",
        folder(*both("", count=3), "rose/photo of a test.png x1", "tulip/val.png x1"),
        ALL,
        split="train",
    ),
    Case(
        "a class called train",
        folder("rose/#.png", "tulip/#.png", "train/#.png = daisy"),
        {"train": ROSES_AND_TULIPS | {"train": 2}},
        split="train",
        renamed={"daisy": "train"},
        note="folder 'train' is taken for a class",
    ),
    Case(
        "a class called val",
        folder("rose/#.png", "tulip/#.png", "val/#.png = daisy"),
        {"train": ROSES_AND_TULIPS | {"val": 2}},
        split="train",
        renamed={"daisy": "val"},
    ),
    Case(
        "a class called test tubes",
        folder("rose/#.png", "tulip/#.png", "test tubes/#.png = daisy"),
        {"train": ROSES_AND_TULIPS | {"test tubes": 2}},
        split="train",
        renamed={"daisy": "test tubes"},
    ),
    Case(
        "deeper folders",
        folder(*both("train/", name="2023/#.png"), *both("train/", name="2024/#.png"), *both("test/")),
        TWO_SPLITS,
        note="of its class, e.g. those in 'rose/2023'",
    ),
    Case(
        "mixed depth",
        folder("train/rose/#.png", "train/rose/2023/#.png", "train/tulip/#.png x4", *both("test/")),
        TWO_SPLITS,
        note="'rose/2023'",
    ),
    Case(
        "images beside class folders",
        folder(*both("", count=4), "daisy.png x1"),
        ALL,
        split="train",
        left_out={"daisy.png": "in no class folder"},
    ),
    Case(
        "an empty class folder",
        folder(*both("", count=4), more=lambda root: (root / "daisy").mkdir()),
        ALL,
        split="train",
        left_out={"daisy": "it holds no samples"},
    ),
    Case(
        "class_names in another order",
        split_folders("train", "test"),
        TWO_SPLITS,
        options={"class_names": ["tulip", "rose"]},
    ),
    Case(
        "class_names with more",
        split_folders("train", "test"),
        {"test": ROSES_AND_TULIPS},
        options={"class_names": ["tulip", "daisy", "rose"]},
        split="test",
    ),
    Case(
        "class_names in other letters",
        split_folders("train", "test"),
        {"train": {"Rose": 4, "TULIP": 4}, "test": {"Rose": 2, "TULIP": 2}},
        options={"class_names": ["TULIP", "Rose"]},
        renamed={"rose": "Rose", "tulip": "TULIP"},
        note="'rose' is 'Rose', 'tulip' is 'TULIP'",
    ),
    Case(
        "class_names with numbers, in another order",
        split_folders("train", "test"),
        error="would rename class 'rose' to '0 tulip', but the names contain those of the data .rose, tulip.: give",
        options={"class_names": ["0 tulip", "1 rose"]},
    ),
    Case(
        "class_names with numbers, in the same order",
        split_folders("train", "test"),
        {"test": {"0 rose": 2, "1_Tulip": 2}},
        options={"class_names": ["0 rose", "1_Tulip"]},
        split="test",
        renamed={"rose": "0 rose", "tulip": "1_Tulip"},
        note="renames the classes",
    ),
    Case(
        "class_names that rename",
        split_folders("train", "test"),
        {"test": {"Rosa": 2, "Tulipa": 2}},
        options={"class_names": ["Rosa", "Tulipa"]},
        split="test",
        renamed={"rose": "Rosa", "tulip": "Tulipa"},
        note="renames the classes: 'rose' is 'Rosa', 'tulip' is 'Tulipa'",
    ),
    Case(
        "class_names that know some",
        split_folders("train", "test"),
        error="names some classes of the data, but not 'tulip'",
        options={"class_names": ["rose", "daisy"]},
    ),
    Case(
        "too few class_names",
        split_folders("train", "test"),
        error="class_names has 1 names, but the data has 2",
        options={"class_names": ["flower"]},
    ),
    Case(
        "class_names twice",
        split_folders("train", "test"),
        error="two classes are called 'rose'",
        options={"class_names": ["rose", "tulip", "rose"]},
    ),
    Case(
        "folders that are numbers",
        folder("2/#.png = rose", "10/#.png = tulip"),
        {"train": ROSES_AND_TULIPS},
        options={"class_names": ["rose", "tulip"]},
        split="train",
    ),
    Case(
        "class_names of a ClassLabel",
        parquet("train.parquet", SHOWN, [0, 1, 0, 1], ["rose", "tulip"]),
        {"train": ROSES_AND_TULIPS},
        options={"class_names": ["tulip", "rose"]},
        split="train",
    ),
]
NAMES_FILE = [
    Case(
        f"class_names in a file with {what}",
        all_of(folder(*both("")), write("names.list", text)),
        counts,
        error=error,
        options={"class_names": "names.list"},
        split="train",
        left_out={} if error else {"names.list": "no image"},
    )
    for what, text, counts, error in (
        ("a byte order mark", b"\xef\xbb\xbftulip\r\nrose\r\n", {"train": ROSES_AND_TULIPS}, None),
        ("empty lines", b"tulip\n\nrose\n \n", {"train": ROSES_AND_TULIPS}, None),
        ("a name twice", b"tulip\nrose\nrose\n", {}, "two classes are called 'rose' in class_names .*names.list"),
        ("nothing", b"\n", {}, "there are no names in class_names"),
    )
]

FILES = [
    Case(f"files called {suffix}", folder(*both("", name=f"#{suffix}", count=4)), ALL, split="train")
    for suffix in (".jPg", ".JPEG", ".tif", ".TIFF", ".bmp", ".jp2", ".webp", ".avif", ".ppm", ".gif", ".jfif")
] + [
    Case(
        "other files",
        all_of(
            folder(*both("", count=4)),
            *(write(f"rose/{name}", "x") for name in ("a.txt", "b.h5", "c.pdf", "d.mpg", "e")),
        ),
        ALL,
        split="train",
        left_out={"a.txt": ".txt is no image", "b.h5": ".h5", "c.pdf": ".pdf", "d.mpg": ".mpg", "e": "by its name"},
    ),
    Case(
        "HEIC without its library",
        all_of(folder(*both("", count=4)), write("rose/a.HEIC", "x")),
        ALL,
        split="train",
        left_out={"a.HEIC": "needs pillow-heif"},
    ),
    Case(
        "what systems leave behind",
        folder(
            *both("", count=4),
            "rose/.ipynb_checkpoints/0-checkpoint.png x1",
            "__MACOSX/rose/._0.png x1",
            "rose/._1.png x1",
            ".hidden/rose.png x1",
            more=all_of(write("rose/Thumbs.db", "x"), write(".DS_Store", "x")),
        ),
        ALL,
        split="train",
    ),
    Case(
        "linked class folders",
        all_of(folder(*both("far/", count=4)), linked("far/rose", "data/rose"), linked("far/tulip", "data/tulip")),
        ALL,
        dataset="data",
        split="train",
    ),
    Case(
        "linked split folders",
        all_of(
            folder(*both("far/", count=4), *both("near/")), linked("far", "data/train"), linked("near", "data/test")
        ),
        TWO_SPLITS,
        dataset="data",
    ),
    Case(
        "a link to a folder above",
        all_of(folder(*both("", count=4)), linked(".", "rose/again")),
        ALL,
        split="train",
        left_out={"again": "link to a folder that it lies in"},
    ),
    Case(
        "a broken link",
        all_of(folder(*both("", count=4)), linked("nowhere.png", "rose/gone.png")),
        ALL,
        split="train",
        left_out={"gone.png": "broken link"},
    ),
    *(
        Case(f"a folder called {name!r}", folder(*both(f"{name}/", count=4)), ALL, dataset=name, split="train")
        for name in ("flowers [v2]", "a::b", "what?", "nr #1", "flÖwers é", "a*b", ".hidden")
    ),
    Case(
        "an archive",
        archive("flowers.zip", "flowers/rose/0.png", "flowers/tulip/0.png", "__MACOSX/rose/._0.png"),
        {"train": {"rose": 1, "tulip": 1}},
        dataset="flowers.zip",
        split="train",
        note="holds but one folder, 'flowers'",
    ),
    Case(
        "archives of splits",
        all_of(
            archive("train.zip", "train/rose/0.png", "train/tulip/0.png"),
            archive("test.zip", "rose/0.png", "tulip/0.png"),
        ),
        {"train": {"rose": 1, "tulip": 1}, "test": {"rose": 1, "tulip": 1}},
    ),
    Case(
        "archives of classes",
        all_of(archive("rose.zip", "0.png rose", "1 rose.png"), archive("tulip.zip", "tulip/0.png")),
        {"train": {"rose": 1, "tulip": 1}},
        split="train",
        left_out={"0.png rose": "is no image"},
    ),
    Case(
        "a damaged archive",
        all_of(folder(*both("")), write("rose/a.zip", "no archive")),
        error="a.zip' cannot be unpacked: File is not a zip file",
    ),
    Case("an empty folder", lambda root: None, error="holds no images that can be read"),
    Case(
        "a text file",
        write("notes.txt", "x"),
        error="notes.txt' is a file, but neither a parquet file nor a ZIP",
        dataset="notes.txt",
    ),
    Case(
        "dataset_config of a folder without any",
        folder(*both("")),
        error="dataset_config is for data sets that have such",
        options={"dataset_config": "big"},
    ),
    Case(
        "dataset_revision of a folder",
        folder(*both("")),
        error="dataset_revision is for data sets",
        options={"dataset_revision": "main"},
    ),
]

FOLDERS = [*SPLITS, *CLASSES, *NAMES_FILE, *FILES]
