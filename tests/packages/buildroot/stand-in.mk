# Stand-ins for what Buildroot gives a recipe, with the compiler of this machine. The caller sets TREE, TARGET_DIR, RECIPE
# and which options are on. Everything that configures goes on the command line, CFLAGS, too.
INSTALL := install
SED := sed -i -e
MAKE := make -j2
TARGET_MAKE_ENV := PATH="$(PATH)"
TARGET_CPPFLAGS := -D_LARGEFILE_SOURCE -D_FILE_OFFSET_BITS=64
TARGET_CONFIGURE_OPTS = CC=gcc STRIP=strip CPPFLAGS="$(TARGET_CPPFLAGS)" CFLAGS="$(TARGET_CPPFLAGS) -Os -g0" LDFLAGS=""
github = https://github.com/$(1)/$(2)/archive/$(3)
define generic-package
$(TREE)/.done:
	$$(call OLLA_BUILD_CMDS)
	$$(call OLLA_INSTALL_TARGET_CMDS)
	$$(call OLLA_INSTALL_INIT_SYSV)
	$$(call OLLA_INSTALL_INIT_SYSTEMD)
	echo '$$(OLLA_DEPENDENCIES)' > $(TREE)/dependencies
endef
OLLA_PKGDIR = $(patsubst %/,%,$(dir $(RECIPE)))
include $(RECIPE)
.DEFAULT_GOAL := $(TREE)/.done
