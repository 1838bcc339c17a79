"""The dashboard: a Flask-SocketIO server (``server.py``) and the page it serves (``static/``)."""
