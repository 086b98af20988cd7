"""The viewer: a page in the browser that shows what every state does at every step."""
