# Stand-ins for what OpenWrt gives a recipe, with the compiler of this machine: enough to run ours. The caller sets
# TOPDIR, BUILD_DIR, DL_DIR and DEST.
INCLUDE_DIR := $(TOPDIR)/include
INSTALL_DIR := install -d -m0755
INSTALL_BIN := install -m0755
INSTALL_DATA := install -m0644
INSTALL_CONF := install -m0600
CP := cp -fpR
ARCH := $(shell uname -m)
TARGET_CROSS := $(shell gcc -dumpmachine)-
TARGET_CFLAGS := -Os -pipe
TARGET_CPPFLAGS :=
TARGET_LDFLAGS :=
