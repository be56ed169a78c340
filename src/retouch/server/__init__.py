"""Studio: sessions over HTTP and WebSocket, and the page that draws on them."""
