"""Every number of the steps: what it was chosen on, and the results file that shows what it does.

Numbers that bound the work and decide no outcome are those of `WORK`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Data on which numbers were chosen; a call declares one of them.

    Attributes:
        chosen_on: the data, in words.
        results: name of the file in ``benchmarks/results`` with figures on other data.
        numbers: the numbers, each with its meaning.
    """

    chosen_on: str
    results: str
    numbers: list[tuple[Any, str]] = field(default_factory=list)

    def __call__(self, number: T, meaning: str) -> T:
        """Return a number after a record of its meaning.

        Args:
            number: a number, or several of one kind.
            meaning: noun phrase of what it is.
        """
        self.numbers.append((number, meaning))
        return number


ZOO = Split("items with even numbers of benchmarks/zoo.py", "zoo.txt")
SHAPES = Split(
    "items with even numbers of benchmarks/zoo.py, squares, rings, ellipses and photographs",
    "small_pixels.txt",
)
DISC = Split("disc 01a of the Helsinki Tomography Challenge", "limited_angle.txt")
CAMERA = Split("one half of the pictures gb82", "camera_noise.txt")
EDGES = Split("parts of photographs of BSD400, half of them mirrored", "deblurring_borders.txt")
MISTAKES = Split("seeds 0 to 11 of benchmarks/mistakes_ct.py", "mistakes_ct.txt")
UNRECORDED = Split("not recorded; what is reported was drawn later", "zoo.txt")
TRUNCATION = Split("tuning seeds of benchmarks/truncation.py", "truncation.txt")
WORK = Split("no data: it bounds time or memory", "zoo.txt")
SPLITS = (ZOO, SHAPES, DISC, CAMERA, EDGES, MISTAKES, TRUNCATION, UNRECORDED, WORK)

# the default prior
LOWEST_OF_PHOTOGRAPH = UNRECORDED(-0.5, "value that 0.5 % of a photograph may lie below with noise")

# bad-readings
READING_FITS = WORK(2, "fits to the readings that are not in doubt")
READING_ITERATIONS = WORK(30, "iterations of each of these fits")
FOLLOWED_SHARE = MISTAKES(0.25, "largest share of a fault that these fits may follow")
EXCEEDED_SHARE = MISTAKES(0.5, "least share of the readings at the largest value that they exceed")

# gains
GAIN_STAGES = WORK(9, "solves that separate gains from the object")
GAIN_ITERATIONS = WORK(50, "iterations of each of these solves")
GAIN_STAGES_SMOOTHED = UNRECORDED(
    3, "first stages, whose gains are compared with those of neighbours"
)
GAIN_WINDOW = UNRECORDED(11, "number of these neighbours")

# kernel-width
WIDTH_SIDE = WORK(256, "largest rows and columns that are deblurred to compare kernels")

# wide-grid
BRIGHT_LEVELS = UNRECORDED(4.0, "noise levels above which a ray that misses the image is bright")
BRIGHT_SHARE = UNRECORDED(0.05, "the same in units of the root mean square of all rays")
BRIGHT_FEWEST = UNRECORDED(3, "rays that noise may make bright")
BRIGHT_CHANCE = UNRECORDED(
    5 * 6.3e-5, "share of rays that noise may make bright: five times that of white noise"
)
CLEAR_FEWEST = ZOO(2, "rays that noise may make clearly bright")
CLEAR_SHARE = ZOO(0.01, "the same in units of the root mean square of all rays")
CLEAR_CHANCE = ZOO(5e-4, "share of rays that noise may make clearly bright")
CLEAR_LEVELS = ZOO(
    5.0,
    "noise levels above which a ray is clearly bright, as an object just beyond a side makes it",
)
WIDE_GRID_LARGEST = WORK(16, "largest number of pixels of the larger grid, in units of the user's")
WIDE_GRID_REACH = WORK(
    0.95, "largest distance of its corners, in units of the distance of the source"
)

# smooth-noise
NOISE_WINDOW = CAMERA(8, "rows and columns of a window")
NOISE_WINDOW_STEP = CAMERA(4, "step from one window to the next")
NOISE_WINDOWS = CAMERA(100, "fewest windows")
NOISE_SIDE = WORK(512, "largest rows and columns of a picture that is used as a whole")
FLATTEST_SHARE = CAMERA(
    0.1, "share of the windows, the flattest, whose largest deviation is the level"
)
NOISE_SPREAD = CAMERA(1.3, "largest ratio of the median deviation of all windows to the level")
FINE_LEVEL = CAMERA(
    0.8, "largest ratio of the level at half the size to the level; texture is coarser"
)
LEAST_NOISE = CAMERA(
    0.009, "least level relative to the range; below it noise is invisible (41 dB)"
)
WHITE_RESIDUAL = CAMERA(
    0.62, "residual of a denoiser at the level, relative to it, if the noise is white"
)
REMOVED_RESIDUAL = CAMERA(
    0.8, "residual at `SMOOTH_LEVELS` times the level, relative to it, if that removes the noise"
)
SMOOTH_LEVELS = CAMERA(
    2.0, "level at which a denoiser for white noise removes smooth noise, relative to the noise"
)
CLIPPED_SHARE = CAMERA(
    0.02, "share of pixels at an end of the range that makes a window a clipped one"
)
CLIPPED_TOLERANCE = CAMERA(0.004, "tolerance of that end, relative to the range")

# open-edges
EDGE_ERRORS = EDGES(
    1.0, "standard errors by which unknowns beyond the edges must predict held-out pixels better"
)
EDGE_TOLERANCE = WORK(1e-2, "certificate of these predictions")
EDGE_VARIATION = ZOO(
    0.88,
    "total variation relative to that of the mirror below which the scene goes on (prior of squares)",
)

# longer-views
ADDED_WEIGHT = TRUNCATION(0.01, "weight of the added cells")
ADDED_MISFIT = TRUNCATION(0.3, "largest residual in them, relative to their size")
MEASURED_GROWTH = TRUNCATION(1.1, "largest growth of the residual of the measured cells")

# finer-grid, and whether views are smooth
FINER_LARGEST_SMOOTH = SHAPES(3 << 12, "the same if its views are smooth")
FINER_LARGEST_VOLUME = WORK(1 << 15, "largest number of voxels")
FINER_LARGEST = SHAPES(
    1 << 13, "largest number of pixels of an image that is solved on half of them too"
)
FINER_LEAST_VIEWS = SHAPES(10, "least number of held-out views")
FINER_LEAST_PANELS = SHAPES(6, "least number of held-out panels of a volume")
FINER_ERRORS = SHAPES(
    1.5, "standard errors by which means of small pixels must predict held-out views better"
)
FINER_CERTAIN_ERRORS = SHAPES(3.0, "the same for an object that may be made of large pixels")
FINER_LEAST_WEIGHT = SHAPES(1e-4, "least weight of small pixels relative to that of large ones")
OF_PIXELS_RATIO = SHAPES(1.1, "ratio of errors above which an object may be made of large pixels")
FINER_WEIGHT = SHAPES(
    0.5, "weight of total variation on small voxels, relative to that on large ones"
)
SMOOTH_ORDERS = SHAPES((6, 8), "orders of differences along the cells of a view")
SMOOTH_RATIO = SHAPES(1.1, "largest ratio of their variances in views whose noise they show")
SMOOTH_DECREASE = SHAPES(2.2, "least ratio of what exceeds the noise in other smooth views")
DIFFERENCES_AT_ONCE = WORK(16, "views whose differences are computed at once")

# simple-answer: the estimated risk, and simulated measurements
LEAST_RESIDUAL = ZOO(
    0.55, "residual of an answer relative to an estimated level, below which the level is doubted"
)
COARSE = ZOO(1.22, "coarseness of the flat parts above which it is doubted")
LOW_NOISE = ZOO(
    10 ** (-32 / 20), "noise relative to the range below which an estimate needs a remark (32 dB)"
)
STRUCTURED = ZOO(0.1, "whiteness above which what a prior removes has structure")
LEAST_GAIN_OF_K_SPACE = ZOO(0.7, "the same for k-space, of which little is predicted (1.5 dB)")
LEAST_GAIN = ZOO(
    0.85, "ratio of squared errors on simulated measurements below which the prior wins (0.7 dB)"
)
CLEARLY = ZOO(2.0, "ratio of squared errors by which zero filling must win on held-out samples")
MOVED = ZOO((5, 3), "pixels by which an image is moved from which k-space is simulated")
RISK_STEP = ZOO(0.3, "step of the divergence in units of the noise")
RISK_SEED = WORK(0, "seed of its signs")

# simple-answer: enlargements
REDUCED_SMALLEST = ZOO(12, "least rows and columns of a picture that is reduced once more")
MOST_DETAIL = ZOO(1.25, "largest ratio of the added detail to that of the small picture")
BARELY = ZOO(0.8, "ratio of errors on held-out pixels below which more detail is allowed")

# simple-answer: held-out pixels
PIXEL_FOLDS = WORK(4, "largest number of folds of held-out pixels")
PIXELS_ENOUGH = WORK(1 << 14, "number of pixels of which one fold is enough")
BIHARMONIC_LARGEST = WORK(1 << 18, "largest number of pixels of a biharmonic interpolation")
PIXEL_ERRORS = ZOO(1.0, "standard errors by which the prior must win")
BLOCK_PARTS = ZOO((8, 4, 2), "parts of the sides of a picture that blocks of held-out pixels have")
MOST_HELD = ZOO(0.4, "largest share of the known pixels that is held out")
HEAVIEST = ZOO(8.0, "largest weight of a held-out pixel")

# simple-answer: held-out views
VIEW_ERRORS = ZOO(
    2.0, "standard errors by which the prior must lose to the filtered back-projection"
)
LEAST_VIEWS = ZOO(10, "least number of held-out views whose filtered residuals are compared")
LEAST_PANELS = ZOO(6, "least number of held-out panels, and of views of a prior that must win")
EVEN_STEPS = ZOO(
    1.5, "largest ratio of two steps between the angles of views that are interpolated"
)
HALVINGS = ZOO(2, "number of times that pixels are halved for the detail within them")
HALVED_LARGEST = WORK(1 << 20, "largest number of pixels after that")

# simple-answer: held-out samples of k-space
RINGS_OF_FREQUENCIES = ZOO(4, "rings of frequencies with as many gaps each")
SAMPLES_HELD = ZOO(4, "inverse share of the samples of a ring that are held out")
SAMPLES_SEED = WORK(0, "seed of their draws")

# prior-choice: the recipe for one material
COARSEST_GRID = DISC(128, "least number of pixels per axis of the coarsest grid")
MOST_GRIDS = DISC(3, "largest number of grids")
MATERIAL_ROUNDS = DISC(3, "rounds of calibration on the coarsest grid")
MATERIAL_ITERATIONS = DISC(200, "iterations of each of them")
FINER_ITERATIONS = DISC((150, 60), "iterations on finer grids and on the finest")
RELAXED_ITERATIONS = DISC(100, "iterations without the penalty")
PENALTY_WARM_UP = DISC(0.75, "share of the iterations over which the penalty grows")
DETAILS = DISC(512, "number of details along a side of the image")
BETWEEN_LEVELS = DISC(
    2.0, "weight of the penalty on values between the levels, if pixels are details"
)
EMPTY_LEVELS = DISC(6.0, "empty rays in units of the noise")
EMPTY_SHARE = DISC(0.02, "share of the largest measurement that they stay below")
EMPTY_LEAST = DISC(1.5, "least noise levels of a measurement that is negative")
CHORD_GROUPS = DISC(20, "groups of rays with about the same measurement")
ROUND = DISC(0.5, "largest distance of tangent rays from a disc, in cells, for which it is one")
HARDENING_DEGREE = DISC(3, "degree of the polynomial against beam hardening")
HARDENING_STRONGEST = DISC(
    3.0, "largest ratio of its slopes: 1.8 to 2.4 on disc 01a, 13 from a wrong image"
)
