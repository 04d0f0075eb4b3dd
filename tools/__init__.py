"""The tools: installed as ``dense_resnet_tools``, run as ``dense-resnet VERB`` or ``python tools/VERB.py``."""
