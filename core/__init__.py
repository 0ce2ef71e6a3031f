from core import process_list, terminal

process_list.hide(terminal.without_passwords)
terminal.told_from_the_start()
