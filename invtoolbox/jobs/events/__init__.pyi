from . import event_pictures as event_pictures
