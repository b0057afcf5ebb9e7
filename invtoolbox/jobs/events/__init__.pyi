from .event_pictures import event_figure as event_figure
