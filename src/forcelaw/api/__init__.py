"""Training and studies from Python: what the commands ``train``, ``run``, ``status`` and ``report``
do, as functions. Public as ``forcelaw.train``, ``forcelaw.load_run``, ``forcelaw.Run`` and
``forcelaw.Study``.

The laws (``forcelaw.fit``, ``compare``, ``diagnose``, ``budget``, ``design``, ``forecast``) are in
:mod:`forcelaw.laws` and need no torch; what is here needs ``pip install 'forcelaw[train]'``.
"""
