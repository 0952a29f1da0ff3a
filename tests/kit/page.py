"""What a reader finds in a page of HTML."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The images and addresses of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.images, self.addresses, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]

    def handle_data(self, data):
        self.words.append(data)
