"""Text to judge a file on where the model's own kind of text is not given: prose, talk, code, a list, other languages.

Written for this purpose, so that no model has read it, and never used for calibration.
"""

_HARBOUR = """\
The ferry left at six, ten minutes late, because the harbour master could not find his glasses and would not
sign anything he had not read. Nobody minded. The morning was warm already, and the passengers stood along the
rail with their coffee and watched the gulls quarrel over a crust of bread. An old woman with a basket of eggs
told the man beside her that she had made this crossing every Friday for forty years, and that in all this
time she had never once seen the whole of the island: there was always a part of it in the cloud. He asked
whether she was sorry about that. She thought for a while. "No," she said. "If I had seen it all, I should
have had to find another reason to go."
When the engine stopped, halfway across, it became so quiet that they could hear water drip from the anchor
chain. The captain came out of the wheelhouse and explained that there was nothing to worry about. A fuel line
was blocked; the engineer would clean it; it would take a quarter of an hour at most. It took two hours. By
then the eggs had been boiled, shared and eaten, a child had learned to whistle, and two brothers who had not
spoken since their father's funeral were arguing happily about the right way to mend a net.
"""
_LETTER = """\
Question: Why does bread go stale faster in the refrigerator than on the table?
Answer: Staleness is not mainly a loss of water. Starch that was softened by baking slowly becomes crystalline
again, and this happens most quickly a few degrees above freezing. A freezer stops the process almost
completely, so bread that has to be kept for more than two days should be sliced and frozen, and then toasted
straight from the freezer.
Three things to check before a long ride: first, that both tyres are hard; second, that the brakes bite before
the levers touch the handlebar; third, that somebody knows which way you went.
"""
_CODE = '''\
def merge_intervals(intervals):
    """Join those that touch; returns them in order."""
    merged = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged
'''
_OTHERS = """\
Der Zug nach Norden hielt an jedem Bahnhof, auch an solchen, an denen niemand ein- oder ausstieg. Le marché
est ouvert tous les jours sauf le lundi, de sept heures à midi. El invierno pasado nevó en la costa por
primera vez en treinta años.
"""
PROSE = (_HARBOUR, _LETTER, _CODE, _OTHERS)
