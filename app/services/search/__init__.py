"""Search: what was said in a viewer's lectures and is written in their documents, by words and by
meaning.
"""
