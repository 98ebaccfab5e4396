"""What an error says to the user."""


def one_sentence(error):
    """The text of what `pytest.raises` caught, which is one clear sentence."""
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 400
    return text
