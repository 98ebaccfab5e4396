"""Both kinds of tokens of Label Studio: who is let in with them, and who is told why not."""

import time

import pytest
from fake_label_studio import PERSONAL_TOKEN, TOKEN, results_of, version_of


@pytest.mark.parametrize("where", ["label_studio", "label_studio_below"])
def test_a_personal_access_token_opens_all_and_is_itself_shown_to_nobody(request, serving, where):
    fake = request.getfixturevalue(where)
    fake.legacy = False
    with serving(fake, token=PERSONAL_TOKEN) as served:
        [prediction] = results_of(fake.predict(served.url, 3))
    assert prediction["result"]
    assert {token for _, token in fake.asked} == {f"Bearer {key}" for key in fake.keys}
    assert len(fake.asked) == 4  # the labels, two images of theirs and one to segment


def test_a_legacy_token_opens_all_below_a_path(label_studio_below, serving):
    with serving(label_studio_below) as served:
        [prediction] = results_of(label_studio_below.predict(served.url, 3))
    assert prediction["result"]


def test_the_keys_of_a_personal_access_token_are_renewed(label_studio, serving):
    label_studio.key_seconds = 2
    with serving(label_studio, token=PERSONAL_TOKEN) as served:
        version_of(label_studio.setup(served.url))
        time.sleep(2.1)
        [prediction] = results_of(label_studio.predict(served.url, 3))
    assert prediction["result"]
    assert len(label_studio.keys) == 2


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (TOKEN, "legacy token authentication has been disabled"),
        (TOKEN[::-1], "Invalid token"),
        (PERSONAL_TOKEN[:-4] + "abcd", "Token is invalid"),
    ],
)
def test_a_token_that_is_refused_is_told_with_the_reason(label_studio, serving, token, why):
    label_studio.legacy = False
    with serving(label_studio, token=token) as served:
        response = label_studio.setup(served.url)
    assert response.status_code == 502
    assert why in response.json()["error"]
    assert "check --api-key" in response.json()["error"]
