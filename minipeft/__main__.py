from minipeft.cli import app

app()
