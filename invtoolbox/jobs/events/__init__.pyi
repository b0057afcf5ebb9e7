from .scene import event_figure as event_figure
