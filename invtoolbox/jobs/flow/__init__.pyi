from .estimation import FlowEstimate as FlowEstimate
from .estimation import estimate as estimate
from .estimation import scene_flow as scene_flow
from .methods import METHODS as METHODS
from .preparation import Preparation as Preparation
from .results import FlowStudy as FlowStudy
from .sequence import flow_sequence as flow_sequence
from .source import SequencePath as SequencePath
