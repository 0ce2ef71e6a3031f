from core import terminal

terminal.told_from_the_start()
