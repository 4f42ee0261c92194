/*
 * multipart.h - level 2: the `model` field of a multipart/form-data body (RFC
 * 7578), found while the body passes, in constant memory.
 *
 * May include: olla.h, str.h.
 */
#ifndef OLLA_MULTIPART_H
#define OLLA_MULTIPART_H

#include "str.h"

struct multipart_scan {
    /* results */
    char model[OLLA_MODEL_NAME]; /* NUL-terminated; "" = none (yet) */
    bool too_long, twice;        /* a model that does not fit; more than one */
    uint64_t from, to;           /* byte range of the (first) value in the body */

    /* state */
    char mark[76]; /* CR LF - - boundary */
    uint8_t mark_n;
    uint8_t matched; /* bytes of the mark */
    uint8_t state;
    bool begun;  /* the first mark was seen; before it only line ends may stand, else it is taken for no form */
    bool wanted; /* the current part is the model */
    uint8_t value_n;
    uint16_t line_n;
    uint64_t at;
    char line[160]; /* of a part's head; what is longer is cut */
};

/* Zero-fills s. false: this Content-Type is not multipart/form-data with a boundary. */
bool multipart_start(struct multipart_scan *s, struct str content_type);

/* Feeds the next n bytes of the body. Malformed bodies simply have no model. */
void multipart_feed(struct multipart_scan *s, const char *p, size_t n);

#endif
