"""How much at once: every such number of the program, each beside the measurement it comes from.

To change how many pictures, frames, gradients or bytes are on their way at the same time, change it here and nowhere
else. Devices are named as torch names their kinds: "cpu", "cuda" or "mps". torch is not imported.
"""

from __future__ import annotations

import os

# ---- pictures through the network ------------------------------------------------------------------------------------

# Pixels that are decomposed together, and pictures at most: on CPUs what stays in the cache, on GPUs what keeps one
# busy. Other devices are treated as CPUs are.
DECOMPOSED_PIXELS = {"cpu": (1 << 18, 32), "cuda": (1 << 20, 64)}

# How many times as many pixels of pictures a hybrid takes on CPUs: there is nothing to keep of them below its cut.
# Measured with `imagenet` in bfloat16, 1,000 photographs: 16 together take 38 s, 5 together 45 to 50 s.
HYBRID_BATCH = 4

# Numbers of the dynamic weights of all targets of a batch: 1 GB in float32.
DYNAMIC_WEIGHTS = 1 << 28

# Pixels that are classified together, and pictures at most: a plain forward pass keeps little.
CLASSIFIED_PIXELS, CLASSIFIED_PICTURES = 1 << 21, 100

# Pixels and pictures that methods by masks classify together; GPUs take eight times as many pixels.
MASKED_PIXELS, MASKED_PICTURES = 1 << 20, 32

# Pixels of one picture's stages of removal that are classified together; GPUs take eight times as many.
REMOVED_PIXELS = 1 << 18

# Numbers that the ordinary graph of DAU layers may keep for the copies of a picture that gradients are taken of
# together. Measured on CPUs with `cifar10`, 15 million at 96 x 96 pixels: nine copies one at a time take half the time
# of nine together. With `imagenette`, a tenth of that at 128 x 128, more at a time are faster, and so they are without
# such layers. On GPUs 32 times as many, 2 GB in float32, for the sake of their memory.
GRAPH_NUMBERS = 1 << 24

# Bytes that a limit on memory must leave for work, beside all that is loaded. In the campaign, runs with 500 MB go well
# or say in one line that they do not; one with 120 MB was ended by the C library with a line of its own.
WORKING_MEMORY = 400_000_000

# Weightings whose gradients are taken in one call, where layers share work among them: their memory grows with them.
SHARED_GRADIENTS = 16

# Attention weights that are computed together for a gradient: 64 MB in float32.
ATTENTION_WEIGHTS = 1 << 24

# Numbers that are multiplied together when sums are taken on a GPU; on CPUs one map at a time stays in the cache.
SUMMED_NUMBERS = 1 << 26


def pictures_at_once(device: str, pixels: int, targets: int = 1, *, hybrid: bool = False) -> int:
    """How many pictures of so many ``pixels``, with so many ``targets`` each, make one batch; at least 1.

    Args:
        device: the kind of device, "cpu", "cuda" or "mps".
        pixels: of one picture.
        targets: how many classes of each picture are explained.
        hybrid: whether the network is one, of which nothing is kept below its cut.

    Returns:
        At least 1.
    """
    most_pixels, most = DECOMPOSED_PIXELS.get(device, DECOMPOSED_PIXELS["cpu"])
    if hybrid and device == "cpu":
        most_pixels, most = HYBRID_BATCH * most_pixels, most // 2
    numbers = 6 * pixels * max(1, targets)
    return max(1, min(most, most_pixels // pixels, DYNAMIC_WEIGHTS // numbers))


def batches_at_once(device: str) -> int:
    """How many batches are computed at a time: on CPUs one fills the pauses of the other, a GPU takes them in turn.

    Measured with `imagenette` on two cores: 3 to 5 % of a folder's time.

    Args:
        device: the kind of device, "cpu", "cuda" or "mps".

    Returns:
        1 or 2.
    """
    return 2 if device == "cpu" else 1


def classified_at_once(pixels: int) -> int:
    """How many pictures of so many ``pixels`` are classified in one batch; at least 1.

    Args:
        pixels: of one picture.

    Returns:
        At least 1.
    """
    return max(1, min(CLASSIFIED_PICTURES, CLASSIFIED_PIXELS // pixels))


def masked_at_once(device: str, pixels: int, lanes: int) -> int:
    """How many masked copies of a picture of so many ``pixels`` are classified in one batch; as many for every lane.

    Args:
        device: the kind of device, "cpu", "cuda" or "mps".
        pixels: of one picture.
        lanes: how many parts a batch is computed in.

    Returns:
        At least 1; a multiple of ``lanes`` where it is larger than that.
    """
    allowed = MASKED_PIXELS if device == "cpu" else 8 * MASKED_PIXELS
    n = max(1, min(MASKED_PICTURES, allowed // pixels))
    return n - n % lanes if n > lanes else n


def removed_at_once(device: str, pixels: int) -> int:
    """How many stages of a picture's removal, of so many ``pixels``, are classified in one batch; at least 1.

    Args:
        device: the kind of device, "cpu", "cuda" or "mps".
        pixels: of one picture.

    Returns:
        At least 1.
    """
    return max(1, (REMOVED_PIXELS if device == "cpu" else 8 * REMOVED_PIXELS) // pixels)


def copies_at_once(device: str, numbers: int) -> int:
    """How many copies of a picture gradients are taken of at a time, where the graph of one keeps so many numbers.

    Args:
        device: the kind of device, "cpu", "cuda" or "mps".
        numbers: that the graph of one copy keeps.

    Returns:
        At least 1.
    """
    return max(1, (GRAPH_NUMBERS if device == "cpu" else 32 * GRAPH_NUMBERS) // numbers)


def queries_at_once(weights: int) -> int:
    """How many of the queries of each head are taken together, where one of them all has so many ``weights``.

    Args:
        weights: inputs times heads times keys.

    Returns:
        At least 1.
    """
    return max(1, ATTENTION_WEIGHTS // weights)


def maps_summed_at_once(device: str, numbers: int) -> int:
    """How many maps of so many ``numbers`` are multiplied and summed at a time; at least 1.

    Args:
        device: the kind of device, "cpu", "cuda" or "mps".
        numbers: of one map.

    Returns:
        At least 1.
    """
    return 1 if device == "cpu" else max(1, min(SHARED_GRADIENTS, SUMMED_NUMBERS // numbers))


# Bytes of what a backbone gives for training pictures that are kept in memory, and how many differently cropped views
# of every picture they hold at least and at most: with fewer the network learns the crops by heart, with more the run
# never comes to the epochs that find all in memory. Measured: a core makes EfficientNet-Lite0's maps of about 60
# pictures of 224 x 224 a second, and trains a layer of 20 classes on several hundred.
FEATURE_BYTES, LEAST_VIEWS, MOST_VIEWS = 1_500_000_000, 4, 8

# How often it is looked, and seconds between, whether other programs have all cores when training begins.
LOOKS, BETWEEN_LOOKS = 5, 0.02

# ---- matrix products of DAU layers -----------------------------------------------------------------------------------

# Dynamic weights are written out, and kept for the backward pass, where the rank is high, which is what the other two
# matrix products cost, and they are no more than so many numbers. Measured: at rank 256 1.6 times as fast, at rank 128
# even.
WRITTEN_RANK, WRITTEN_NUMBERS = 192, 1 << 24

# Positions whose matrix products are made at once on CPUs. Measured: those of two thousand rows run at the full rate;
# where dynamic weights are made, and shared by all cotangents, of at least a hundred, and of as many as keep the result
# to so many numbers: fewer are too much to say for too little work, more leave the cache.
PRODUCT_ROWS, SHARED_ROWS, SHARED_NUMBERS = 2048, 128, 1 << 20
PRODUCT_ROWS_GPU, SHARED_NUMBERS_GPU = 8 * PRODUCT_ROWS, 1 << 28

# Positions whose entries that are 0 in all of them are left out together, and the share of zeros from which that pays.
# Measured by `python tests/benchmarks zeros`: of fewer positions more entries are left out, but the products themselves
# take longer.
LIVE_ROWS, MOSTLY_ZERO = 98, 0.7

# Numbers of one block of a matrix product: about 2 MB on CPUs, which stays in the cache, more on GPUs.
BLOCK_NUMBERS, BLOCK_NUMBERS_GPU = 1 << 19, 1 << 26

# Cotangents times rank up to which cotangents are pulled back one after the other. Measured: together pays for two at
# rank 32, three at rank 16, four at rank 8; ten take 1.3 (rank 64) to 3.3 times (rank 8) what one takes.
ONE_BY_ONE = 32

# ---- files beside the network ----------------------------------------------------------------------------------------

# Pictures that are read before the network asks for them, and bytes of those that wait to be computed together. Three
# such groups are on their way at a time.
READ_AHEAD, GROUP_BYTES = 6, 128e6

# Results of one picture that wait for each writer; more would pile up in memory.
WAITING_FOR_A_WRITER = 2

# Bytes of rows that are filtered for a PNG at a time.
PNG_BLOCK = 1 << 22

# Bytes of a file that is read whole: a picture, and a record. The largest picture that is taken, 128 million pixels
# without compression, has 384 MB.
PICTURE_FILE, RECORD_FILE = 512_000_000, 64_000_000

# Bytes and rows of results that are held until they are written as a row group of a Parquet file.
PARQUET_GROUP, PARQUET_ROWS = 32_000_000, 1000

# Bytes of a file of annotations, which as objects takes about ten times as many. COCO's val2017 has 20 MB.
ANNOTATIONS_FILE = 64_000_000

# Bytes that the regions of one picture may take: eight for each pixel of the view inside their bounding boxes. A whole
# view of 224 x 224 pixels takes 0.4 MB.
REGIONS_BYTES = 256_000_000

# Bytes that pictures may take while they are decoded or drawn, those of all threads together; one that needs more has
# them to itself. Measured: twelve PNGs of 64 million pixels, which is 448 MB each, take turns.
PICTURES_BYTES = 768_000_000

# Bytes that pictures from archives and addresses may take together between their arrival and their end, besides what
# decoding them takes.
STORED_BYTES = 256_000_000

ADDRESS_BYTES = 64_000_000  # of a picture at an address; four may be on their way at a time

# Of an archive: its entries, the bytes of a ZIP's list of them, and the bytes that a compressed tar may expand to: this
# many, or this many times its own size. Measured: a ZIP of a million entries is refused at once, such a tar after 10 s;
# a ZIP of 249,000 entries is listed with 515 MB, such a tar with 429 MB.
ENTRIES, DIRECTORY_BYTES = 250_000, 32_000_000
EXPANDED_BYTES, EXPANDED_TIMES = 2_000_000_000, 50
DOCUMENT_BYTES = 256_000_000  # of pictures with pages, kept from when these are counted to when they are read
SKIPPED_BYTES = 64_000_000  # of files in a compressed archive that were passed over and may be asked for soon

# Bytes that one picture may take while it is decoded; above it, it is refused by its header. 128 million pixels of RGB
# take 896 MB.
DECODED_BYTES = 1_000_000_000

# Bytes for one pixel that decoders hold besides the picture they give. Measured with pictures of 36 million pixels.
DECODER_BYTES = {"WEBP": 16, "AVIF": 12, "JPEG2000": 20, "GIF": 8, "JPEG": 1, "MPO": 1, "HEIF": 12}

# A JPEG with more pixels is decoded at half its size, or less, which takes a quarter of the memory or less.
DRAFTED_PIXELS = 50_000_000

# Pixels of a picture that are converted to RGB together.
CONVERTED_PIXELS = 1 << 22

# Pixels at which a picture is drawn at most, and its longer side; a larger picture is drawn smaller. A panel of three
# stays below 89 million pixels, above which Pillow warns of a file, and refuses it at twice as many.
DRAWN_PIXELS, DRAWN_SIDE = 25_000_000, 60_000

# Pixels of all tiles of a sheet, and of all frames of an animation over layers, which are held together.
SHEET_PIXELS, ANIMATION_PIXELS = 76_000_000, 120_000_000

# Bytes for one pixel of a drawing while it is drawn and encoded.
DRAWING_BYTES = 24


def within_drawings(size: tuple[int, int], most: int = DRAWN_PIXELS) -> tuple[int, int]:
    """The size at which a picture may be drawn.

    Args:
        size: (width, height) of the picture in pixels.
        most: pixels that the drawing may have.

    Returns:
        The same (width, height), or a smaller one of about the same shape.
    """
    scale = min(1.0, (most / (size[0] * size[1])) ** 0.5, DRAWN_SIDE / max(size))
    return size if scale == 1 else (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))


# Pixels that a network sees of a picture at its own size, at most. Measured with `imagenette`: 0.2 GB for a
# million, 1.75 GB for 3 million with everything else.
NATIVE_PIXELS = 6_000_000


def readers() -> int:
    """Say how many threads read pictures, and how many write results.

    Returns:
        One for each core, from 2 to 8.
    """
    return max(2, min(8, os.cpu_count() or 2))


# ---- a cluster -------------------------------------------------------------------------------------------------------

# Cores of one worker, fewer where a machine has fewer: each worker holds the network, and takes about 1.4 GB.
WORKER_CORES = 4

# Inputs that a worker is given at a time: few at first, so that small runs are shared out, then twice as many each
# time. A worker has two such parts, so that it need not wait for the next one.
FIRST_PART, LARGEST_PART, PARTS_OF_A_WORKER = 16, 128, 2

# Seconds of results that travel together, and between two looks for machines that have joined.
TOGETHER, NEXT_LOOK = 0.5, 10.0


# ---- clips -----------------------------------------------------------------------------------------------------------

FRAMES_AHEAD = 12  # frames that are read before the network asks for them
FRAMES_AT_ONCE = 16  # frames computed together, whatever the device: they are held at their full size
FRAMES_UNDER_WAY = 12  # frames that are drawn or encoded at a time, at most: they hold memory

# Bytes of frames in each of these three places. Frames up to 1080p are not affected; of 8K, two are held in each.
FRAME_BYTES = 1 << 28

# Frames of a clip, evenly spaced, that its colour scale is found from, and bytes of their views that are kept for that:
# from large views, fewer frames.
SCALE_FRAMES, SCALE_BYTES = 24, 1 << 26

# Bytes of what the first pass over a clip keeps of its frames for the second: `imagenet` has 0.5 MB of a frame in
# bfloat16, 1 MB in float32. The frames that come after these are computed anew.
KEPT_BYTES = 1 << 29


def frames_at_once(device: str, pixels: int, targets: int = 1) -> int:
    """How many frames are decomposed in one batch; at least 1. The batches that are computed at a time share them.

    Args:
        device: the kind of device, "cpu", "cuda" or "mps".
        pixels: of one frame.
        targets: how many classes of each frame are explained.

    Returns:
        At least 1; the batches that are computed at a time share what a batch of pictures may have.
    """
    return max(1, min(FRAMES_AT_ONCE, pictures_at_once(device, pixels, targets) // batches_at_once(device)))


def frames_held(most: int, size: int) -> int:
    """How many frames are held in one place; at least 1.

    Args:
        most: how many of usual size.
        size: bytes of one frame.

    Returns:
        Between 1 and ``most``.
    """
    return max(1, min(most, FRAME_BYTES // max(1, size)))


def painters() -> int:
    """Say how many threads draw frames.

    Returns:
        All cores but one, which encodes, from 1 to 4.
    """
    return max(1, min(4, (os.cpu_count() or 2) - 1))


# ---- the demo --------------------------------------------------------------------------------------------------------

# Networks that stay loaded, beside which one decomposition runs at a time. The bundled ones are files of 8 to 20 MB.
DEMO_NETWORKS = 4

# Requests that may wait for their turn, one decomposition at a time; who comes later is told to try again.
DEMO_WAITING = 20
